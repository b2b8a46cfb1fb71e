"""The tokenizer of a CTranslate2 folder: its list of tokens, and the files that lie beside it.

CTranslate2 itself takes tokens, so its folders need hold no tokenizer. Those of faster-whisper
hold tokenizer.json; translation models have SentencePiece files beside them, under several names.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from antiphon.config.errors import CheckpointError
from antiphon.families.ctranslate2 import CTranslate2Model

# By how the architecture's name begins: transformers' class, and the file that it needs.
CLASSES: Mapping[str, tuple[str, str]] = {
    "Whisper": ("WhisperTokenizer", "tokenizer.json"),
    "Marian": ("MarianTokenizer", "source.spm"),
    "M2M100": ("M2M100Tokenizer", "sentencepiece.bpe.model"),
    "NLLB": ("NllbTokenizer", "sentencepiece.bpe.model"),
    "T5": ("T5Tokenizer", "spiece.model"),
    "Bart": ("BartTokenizer", "tokenizer.json"),
    "MBart": ("MBart50Tokenizer", "sentencepiece.bpe.model"),
    "Pegasus": ("PegasusTokenizer", "spiece.model"),
}
OTHERS = ("tokenizer.json", "vocab.json", "merges.txt")  # files without pieces of SentencePiece
NLLB_LANGUAGE = "eng_Latn"


def load(folder: Path) -> Any:
    """transformers' tokenizer, whose ids are the model's.

    Raises CheckpointError where files are missing or belong to another model; what tokenizer
    libraries raise for broken files passes through.
    """
    model = CTranslate2Model(folder)
    tokens = model.tokens.tokens
    if (folder / "tokenizer_config.json").exists():
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder)
    else:
        tokenizer = _from_files(folder, model.architecture, tokens)
    _check_ids(folder, tokenizer, model.tokens.ids)
    return tokenizer


def _from_files(folder: Path, architecture: str, tokens: list[str]) -> Any:
    import transformers

    kind = "NLLB" if NLLB_LANGUAGE in tokens else architecture
    name, needed = next(entry for begin, entry in CLASSES.items() if kind.startswith(begin))
    files = {file: folder / file for file in OTHERS if (folder / file).exists()}
    pieces = [file for file in folder.iterdir() if file.suffix in (".spm", ".model")]
    files |= {file.name: file for file in pieces}
    if len(pieces) == 1:  # whatever its name
        files.setdefault(needed, pieces[0])
    if not {needed, *OTHERS[:2]} & set(files):
        raise CheckpointError(
            f"{folder} has no tokenizer: CTranslate2 takes tokens, the engine takes text. Put "
            f"{needed} or tokenizer.json of the model that it was converted from beside model.bin "
            f"(what transformers' {name} reads)"
        )
    with tempfile.TemporaryDirectory(prefix="antiphon-tokenizer-") as view:
        for own, file in files.items():
            (Path(view) / own).symlink_to(file.resolve())
        if name in ("MarianTokenizer", "M2M100Tokenizer"):
            _write_vocabulary(Path(view), name, tokens)
        return getattr(transformers, name).from_pretrained(view)


def _write_vocabulary(view: Path, name: str, tokens: list[str]) -> None:
    """vocab.json, which these tokenizers need beside their pieces."""
    ids = {token: id_ for id_, token in enumerate(tokens)}
    if name == "MarianTokenizer":
        ids.setdefault("<pad>", len(tokens))
        target = view / "target.spm"
        if not target.exists():  # one vocabulary for both languages
            target.symlink_to((view / "source.spm").resolve())
    else:  # languages and fillers, which M2M-100's tokenizer adds itself
        ids = {
            token: id_
            for token, id_ in ids.items()
            if not token.startswith(("__", "madeupword")) or not token[2:]
        }
    (view / "vocab.json").unlink(missing_ok=True)
    (view / "vocab.json").write_text(json.dumps(ids))


def _check_ids(folder: Path, tokenizer: Any, ids: Mapping[str, int]) -> None:
    """Raises CheckpointError for a tokenizer that gives the model's tokens other ids."""
    known: Mapping[str, int] = tokenizer.get_vocab()
    shared = [token for token in known if token in ids]
    wrong = [token for token in shared if known[token] != ids[token]]
    if wrong or not shared:
        example = (
            f"{wrong[0]!r} is {known[wrong[0]]} there and {ids[wrong[0]]} in the model's vocabulary"
            if wrong
            else "they have no token in common"
        )
        raise CheckpointError(f"the tokenizer of {folder} belongs to another model: {example}")
