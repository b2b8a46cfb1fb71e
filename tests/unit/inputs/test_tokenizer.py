"""What a tokenizer says by itself while prompts are read."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import tokenization_utils_base

from antiphon.inputs.tokenizer import load_tokenizer


def test_a_text_longer_than_its_file_says_brings_no_warning_of_transformers(
    t5_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ "... will result in indexing errors": the model's own limit is higher, and is checked."""
    warnings: list[str] = []
    monkeypatch.setattr(tokenization_utils_base.logger, "warning", warnings.append)
    tokenizer = load_tokenizer(t5_folder)
    ids = tokenizer("in words: 4 " * 100).input_ids
    assert len(ids) > tokenizer.model_max_length
    assert warnings == []


def test_null_in_config_json_is_no_matter_of_the_tokenizer(
    whisper_folder: Path, tmp_path: Path
) -> None:
    """transformers reads config.json for the tokenizer's class, and refuses null in it."""
    folder = shutil.copytree(whisper_folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config |= dict.fromkeys(["dropout", "use_cache", "scale_embedding", "init_std"])
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer, usual = load_tokenizer(folder), load_tokenizer(whisper_folder)
    assert type(tokenizer) is type(usual)
    assert tokenizer("open the gate").input_ids == usual("open the gate").input_ids
