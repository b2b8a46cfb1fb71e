"""What a tokenizer says by itself while prompts are read."""

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
