"""Loads the tokenizer of a checkpoint."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from antiphon.config.errors import CheckpointError, describe
from antiphon.families.checkpoint import without_nulls
from antiphon.families.ctranslate2 import is_ctranslate2
from antiphon.families.json_files import read_object
from antiphon.inputs import ctranslate2_tokenizer

TOO_LONG = "sequence-length-is-longer-than-the-specified-maximum"  # as transformers names a warning
# How the names of a tokenizer's vocabulary files begin, in its `vocab_files_names`.
VOCABULARY = ("vocab", "tokenizer_file", "spm", "source", "target", "merges")
# The names themselves, of all families here.
FILES = (
    "tokenizer.json", "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model",
    "source.spm", "target.spm", "tokenizer.model", "vocab.txt",
)  # fmt: skip


def load_tokenizer(folder: Path) -> Any:
    """transformers' tokenizer. Raises CheckpointError for missing and broken files."""
    try:
        converted = is_ctranslate2(folder)
        tokenizer = ctranslate2_tokenizer.load(folder) if converted else _of_transformers(folder)
    except CheckpointError:
        raise
    except Exception as error:  # tokenizer libraries raise many types for broken or missing files
        _check_files(folder, FILES)
        raise CheckpointError(
            f"cannot load the tokenizer of {folder}: {describe(error)}"
        ) from error
    if not converted:
        _check_vocabulary(tokenizer, folder)
    # Lengths are checked with numbers against the model's own limits, which may be higher (T5's).
    tokenizer.deprecation_warnings[TOO_LONG] = True
    return tokenizer


def _of_transformers(folder: Path) -> Any:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder)
    except StrictDataclassError:  # of config.json, which is read for the tokenizer's class
        stated = without_nulls(read_object(folder / "config.json"))
        return AutoTokenizer.from_pretrained(folder, config=AutoConfig.for_model(**stated))


def _check_vocabulary(tokenizer: Any, folder: Path) -> None:
    """Raises CheckpointError for a folder without any file of the tokenizer's vocabulary.

    transformers makes a tokenizer all the same, of special tokens alone, which turns every text
    into unknown tokens.
    """
    kinds = tokenizer.vocab_files_names.items()
    files = [name for kind, name in kinds if kind.startswith(VOCABULARY)]
    if files:
        _check_files(folder, files)


def _check_files(folder: Path, files: Sequence[str]) -> None:
    if not any((folder / name).exists() for name in files):
        raise CheckpointError(
            f"{folder} has no tokenizer: none of {', '.join(files)} is there. Fetch it from where "
            "the weights come from, or save it beside them with the tokenizer's save_pretrained()"
        )
