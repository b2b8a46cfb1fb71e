"""What `antiphon info` says of who drafts tokens; a draft model that does not fit is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
from first_layers import first_layers
from typer.testing import CliRunner

from antiphon.cli.app import app
from antiphon.cli.describe import describe_model
from antiphon.config.errors import ConfigurationError


def described(folder: Path, **config: object) -> str:
    return describe_model(str(folder), {"device": "cpu", "speculative_config": config})


def kv_memory(text: str) -> float:
    return float(text.partition(" MiB of KV cache")[0].rpartition(" ")[2])


def test_who_drafts(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    whisper = folder_of("whisper")
    first_layers(whisper, tmp_path, 1)
    drafted = described(whisper, model=str(tmp_path))
    assert f"  drafts: by {tmp_path}, 1 layers of 48, 3 heads of 16, up to " in drafted
    assert " MiB of weights beside the model's\n" in drafted
    assert "  drafts: looked up in earlier text\n" in described(whisper, method="ngram")
    plain = describe_model(str(whisper), {"device": "cpu"})
    assert "drafts" not in plain
    assert kv_memory(drafted) > kv_memory(plain)


def test_a_draft_that_does_not_fit(folder_of: Callable[[str], Path]) -> None:
    options = ["--speculative-method", "draft_model", "--speculative-model", str(folder_of("bart"))]
    command = ["info", "-m", str(folder_of("whisper")), "--device", "cpu", *options]
    result = CliRunner().invoke(app, command)
    assert result.exit_code != 0
    assert "it is a bart, not a whisper" in str(result.exception or "") + result.output


def test_a_model_without_an_encoder(folder_of: Callable[[str], Path]) -> None:
    with pytest.raises(ConfigurationError, match="shares an encoder"):
        described(folder_of("llama"), model=str(folder_of("llama")))
