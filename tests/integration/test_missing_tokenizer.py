"""A checkpoint without its tokenizer is refused: transformers makes one of special tokens alone."""

import shutil
from pathlib import Path

import pytest
from paths import T5, WHISPER

from antiphon.config.errors import CheckpointError
from antiphon.config.options import ModelOptions
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.processor import InputProcessor


@pytest.mark.parametrize(
    ("model", "patterns", "message"),
    [
        (T5, ["tokenizer*"], "has no tokenizer: none of spiece.model, tokenizer.json is there"),
        (T5, ["tokenizer.json"], "tokenizer"),
        (WHISPER, ["vocab.json", "merges.txt"], "has no tokenizer: none of vocab.json"),
    ],
)
def test_it_is_named(model: Path, patterns: list[str], message: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    for pattern in patterns:
        for file in folder.glob(pattern):
            file.unlink()
    with pytest.raises(CheckpointError, match=message):
        InputProcessor(ModelConfig.load(ModelOptions(str(folder))))


@pytest.mark.parametrize("family", ["marian", "m2m100", "pegasus", "mbart", "bart", "mt5"])
def test_every_family_says_so(family: str, checkpoints) -> None:
    """Some of transformers' tokenizers raise errors of their own without their files."""
    with pytest.raises(CheckpointError, match=r"has no tokenizer: none of .* is there"):
        InputProcessor(ModelConfig.load(ModelOptions(str(checkpoints(family)[0]))))


def test_bytes_need_no_vocabulary(tmp_path: Path) -> None:
    from transformers import ByT5Tokenizer

    folder = tmp_path / "model"
    shutil.copytree(T5, folder, ignore=shutil.ignore_patterns("tokenizer*"))
    ByT5Tokenizer().save_pretrained(folder)
    processor = InputProcessor(ModelConfig.load(ModelOptions(str(folder))))
    assert processor.tokenizer("a").input_ids == [100, 1]
