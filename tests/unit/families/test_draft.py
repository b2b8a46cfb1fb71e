"""A draft model that does not fit is refused before any weight is read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from first_layers import first_layers

from antiphon.config.errors import ConfigurationError
from antiphon.config.options import resolve
from antiphon.decoder.speculative import check_same_encoder
from antiphon.families.checkpoint import ModelConfig
from antiphon.families.draft import looks_up, with_draft

Folder = Callable[[str], Path]


def load(folder: Path, config: dict[str, Any]) -> tuple[ModelConfig, Any]:
    options = resolve(str(folder), {"device": "cpu", "speculative_config": config}, {})
    return with_draft(ModelConfig.load(options.model), options), options


def changed(folder: Path, target: Path, **values: Any) -> Path:
    """The configuration alone: there are no weights to read."""
    raw = json.loads((folder / "config.json").read_text())
    target.mkdir()
    (target / "config.json").write_text(json.dumps({**raw, **values}))
    return target


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"vocab_size": 98}, "decoder's vocab_size is 98, not 99"),
        ({"decoder_attention_heads": 6}, "decoder's num_heads is 6, not 3"),
        ({"encoder_layers": 4}, "encoder's num_layers is 4, not 2"),
        ({"encoder_ffn_dim": 100}, "encoder's ffn_size is 100, not 96"),
    ],
)
def test_sizes(values: dict[str, Any], words: str, folder_of: Folder, tmp_path: Path) -> None:
    draft = changed(folder_of("whisper"), tmp_path / "draft", **values)
    with pytest.raises(ConfigurationError, match=words):
        load(folder_of("whisper"), {"model": str(draft)})


def test_another_family(folder_of: Folder) -> None:
    with pytest.raises(ConfigurationError, match="it is a bart, not a whisper"):
        load(folder_of("whisper"), {"model": str(folder_of("bart"))})


def test_without_an_encoder(folder_of: Folder) -> None:
    with pytest.raises(ConfigurationError, match="shares an encoder"):
        load(folder_of("llama"), {"model": str(folder_of("llama"))})


def test_another_encoder_of_the_same_sizes(folder_of: Folder, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    first_layers(folder_of("whisper"), tmp_path, 1)
    check_same_encoder(*load(folder_of("whisper"), {"model": str(tmp_path)}))
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.encoder.conv1.weight"][0, 0, 0] += 1
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigurationError, match=r"conv1\.weight differs"):
        check_same_encoder(*load(folder_of("whisper"), {"model": str(tmp_path)}))
    declared = {"model": str(tmp_path), "same_encoder": True}
    check_same_encoder(*load(folder_of("whisper"), declared))


def test_texts_are_looked_up_in_where_both_halves_have_one_vocabulary(folder_of: Folder) -> None:
    for family, wanted in (("t5", True), ("llama", False), ("marian_two_vocabularies", False)):
        model, options = load(folder_of(family), {"method": "ngram"})
        assert looks_up(model, options) == wanted
