"""The tokens of a CTranslate2 folder, and what its config.json says of generating text."""

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from antiphon.config.errors import CheckpointError
from antiphon.families.json_files import read_json, read_object

VOCABULARIES = ("vocabulary", "shared_vocabulary", "target_vocabulary")
LANGUAGE = re.compile(r"<\|[a-z]{2,3}\|>")
# Steps of 0.02 s: how far behind the start the first timestamp may be, in OpenAI's checkpoints.
FIRST_TIMESTAMP_LIMIT = 50
# <|endoftext|> of OpenAI's English-only vocabulary, which has language tokens without a meaning.
END_OF_ENGLISH = 50256


class CTranslate2Tokens:
    """Raises CheckpointError, in every method, for files that are missing, broken or contradict
    each other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def stated(self) -> dict[str, Any]:
        """CTranslate2's config.json."""
        return read_object(self.folder / "config.json")

    @cached_property
    def tokens(self) -> list[str]:
        """The vocabulary (the target's, where there are two) in the order of its ids."""
        for name in VOCABULARIES:
            if (file := self.folder / f"{name}.json").exists():
                return _listed(file)
            if (file := self.folder / f"{name}.txt").exists():
                return _lines(file)
        raise CheckpointError(
            f"{self.folder} holds no vocabulary of CTranslate2's: none of "
            f"{', '.join(f'{name}.json' for name in VOCABULARIES)} is there"
        )

    @cached_property
    def ids(self) -> Mapping[str, int]:
        """Ids by token."""
        return {token: id_ for id_, token in enumerate(self.tokens)}

    def text_special(self) -> dict[str, int | None]:
        """Ids of the special tokens of a model that reads text, by transformers' names."""
        named = {name: self.stated.get(f"{name}_token") for name in ("decoder_start", "eos")}
        stated = {f"{name}_token_id": self._id(token) for name, token in named.items() if token}
        # CTranslate2 names a first token for vocabularies too that have none.
        first = self.ids.get(self.stated.get("bos_token", ""))
        return {"pad_token_id": self.ids.get("<pad>"), "bos_token_id": first, **stated}

    def whisper_special(self) -> dict[str, int | None]:
        end = self._id("<|endoftext|>")
        return {
            "decoder_start_token_id": self._id("<|startoftranscript|>"),
            **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), end),
        }

    def whisper_generation(self) -> dict[str, Any]:
        """generation_config.json of Whisper, but for the length and the special tokens."""
        settings: dict[str, Any] = {
            "suppress_tokens": self.stated.get("suppress_ids"),
            "begin_suppress_tokens": self.stated.get("suppress_ids_begin"),
            "alignment_heads": self.stated.get("alignment_heads"),
            "no_timestamps_token_id": self._id("<|notimestamps|>"),
            "prev_sot_token_id": self.ids.get("<|startofprev|>"),
            "max_initial_timestamp_index": FIRST_TIMESTAMP_LIMIT,
            "is_multilingual": False,
        }
        lang_ids = self.stated.get("lang_ids") or []
        if not isinstance(lang_ids, list) or not all(type(id_) is int for id_ in lang_ids):
            raise CheckpointError(f"lang_ids of {self.folder} must be token ids: {lang_ids!r:.60}")
        languages = {
            self.tokens[id_]: id_
            for id_ in lang_ids
            if 0 <= id_ < len(self.tokens) and LANGUAGE.fullmatch(self.tokens[id_])
        }
        if languages and self._id("<|endoftext|>") != END_OF_ENGLISH:
            tasks = {task: self._id(f"<|{task}|>") for task in ("transcribe", "translate")}
            settings |= {"is_multilingual": True, "lang_to_id": languages, "task_to_id": tasks}
        return {name: value for name, value in settings.items() if value is not None}

    def _id(self, token: Any) -> int:
        if token not in self.ids:
            raise CheckpointError(f"the vocabulary of {self.folder} lacks {token!r:.60}")
        return self.ids[token]


def _listed(path: Path) -> list[str]:
    tokens = read_json(path)
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise CheckpointError(f"{path} must hold a JSON list of tokens")
    return tokens


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from None
