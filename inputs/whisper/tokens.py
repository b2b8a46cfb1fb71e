"""Which tokens of a Whisper checkpoint are languages, tasks and times: its tokenizer says, where its settings don't."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from antiphon.config.errors import CheckpointError
from antiphon.inputs.languages.names import NAMES

Vocabulary = Mapping[str, int]  # token: id
Settings = Mapping[str, Any]

SECONDS_PER_TICK = 0.02
TIMESTAMP = re.compile(r"<\|\d+\.\d+\|>")
TASKS = ("transcribe", "translate")
_END_OF_ENGLISH = (
    50256  # id of <|endoftext|> in GPT-2's vocabulary, which OpenAI's English-only models have
)


def added_tokens(folder: Path) -> dict[str, int]:
    """The tokens that a checkpoint's files name beside its vocabulary: without the tokenizer, which
    takes a second to load. Empty where none of them can be read; loading will say why."""
    tokens: dict[str, int] = {}
    try:
        if (file := folder / "tokenizer.json").exists():
            tokens |= {
                each["content"]: each["id"]
                for each in json.loads(file.read_bytes())["added_tokens"]
            }
        if (file := folder / "tokenizer_config.json").exists():
            stated = json.loads(file.read_bytes()).get("added_tokens_decoder") or {}
            tokens |= {token["content"]: int(id_) for id_, token in stated.items()}
        if (file := folder / "added_tokens.json").exists():
            tokens |= json.loads(file.read_bytes())
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}
    return tokens


def language_ids(settings: Settings, vocabulary: Vocabulary) -> dict[str, int]:
    """Code: id. Of the generation config's lang_to_id, else the tokens <|xx|> whose xx is a language of Whisper's."""
    stated = _named_ids(settings, "lang_to_id")
    if stated:
        return {token.strip("<|>"): id_ for token, id_ in stated.items()}
    return {code: vocabulary[token] for code in NAMES if (token := f"<|{code}|>") in vocabulary}


def task_ids(settings: Settings, vocabulary: Vocabulary) -> dict[str, int]:
    """Name: id. Of the generation config's task_to_id, else of the tokenizer."""
    stated = _named_ids(settings, "task_to_id")
    return stated or {
        task: vocabulary[token] for task in TASKS if (token := f"<|{task}|>") in vocabulary
    }


def is_multilingual(
    settings: Settings, forced: Mapping[int, int | None], no_timestamps_id: int, end_id: int
) -> bool:
    """Whether prompts name language and task, for a checkpoint whose tokenizer has tokens for them.

    The generation config's is_multilingual says so; lang_to_id does, which English-only ones never have. Where
    both are absent it is no, if old settings put <|notimestamps|> right behind the start, or if the tokenizer is
    that of OpenAI's English-only models: GPT-2's, in which <|endoftext|> is token 50256 (50257 in multilingual
    ones; it too has the language tokens, but its models never saw them). Else it is yes.
    """
    stated = settings.get("is_multilingual")
    if stated is not None:
        return bool(stated)
    if settings.get("lang_to_id"):
        return True
    return forced.get(1) != no_timestamps_id and end_id != _END_OF_ENGLISH


def timestamp_ids(
    vocabulary: Vocabulary, no_timestamps_id: int, last_tick: int, vocab_size: int
) -> range:
    """The ids of <|0.00|>, <|0.02|>, ... as far as the tokenizer names them without a gap.

    Old tokenizers name none. Then they are the ids behind <|notimestamps|>, up to the window's `last_tick` and no
    further than the decoder's vocabulary or the first of them that the tokenizer gave to another token.
    """
    first = vocabulary.get("<|0.00|>")
    if first is not None:
        ticks = 1
        while vocabulary.get(f"<|{ticks * SECONDS_PER_TICK:.2f}|>") == first + ticks:
            ticks += 1
        return range(first, min(first + ticks, vocab_size))
    first = no_timestamps_id + 1
    named = [id_ for id_ in vocabulary.values() if id_ >= first]
    return range(first, min([first + last_tick + 1, vocab_size, *named]))


def forced_ids(settings: Settings, config: Settings) -> dict[int, int | None]:
    """Position: id of `forced_decoder_ids`, as settings of before 2024 prescribe the prompt; None leaves it open.

    Those of config.json count where the generation config has none, as in transformers.
    """
    forced = (
        settings["forced_decoder_ids"]
        if "forced_decoder_ids" in settings
        else config.get("forced_decoder_ids")
    )
    try:
        return {int(position): None if id_ is None else int(id_) for position, id_ in forced or []}
    except (TypeError, ValueError):
        raise CheckpointError(
            f"forced_decoder_ids must be pairs of a position and a token id, not {forced!r}"
        ) from None


def _named_ids(settings: Settings, name: str) -> dict[str, int]:
    stated = settings.get(name) or {}
    if not isinstance(stated, Mapping) or not all(isinstance(id_, int) for id_ in stated.values()):
        raise CheckpointError(
            f"{name} of the generation config must map names to token ids, not {stated!r}"
        )
    return {str(token): id_ for token, id_ in stated.items()}
