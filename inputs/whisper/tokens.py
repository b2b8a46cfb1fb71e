"""Which tokens of a Whisper checkpoint are languages, tasks and timestamps.

The tokenizer says it. The generation config may name some of them; what it says of one must be what
the tokenizer says, or text would be in another language without anyone noticing.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from antiphon.config.errors import CheckpointError
from antiphon.inputs.languages.names import NAMES

Vocabulary = Mapping[str, int]  # token: id
Settings = Mapping[str, Any]

SECONDS_PER_TICK = 0.02
TIMESTAMP = re.compile(r"<\|\d+\.\d+\|>")
TASKS = ("transcribe", "translate")
# Codes of languages have two or three letters, and subtags (zh-TW): a task or a mark has more.
LANGUAGE = re.compile(r"<\|[a-z]{2,3}([-_]\w+)*\|>")
# The id of <|endoftext|> in GPT-2's vocabulary, which OpenAI's English-only models have.
_END_OF_ENGLISH = 50256
MARKS = (
    *'"#()*+/:;<=>@[\\]^_`{|}~「」『』',
    *[
        "<<",
        ">>",
        "<<<",
        ">>>",
        "--",
        "---",
        "-(",
        "-[",
        "('",
        '("',
        "((",
        "))",
        "(((",
        ")))",
        "[[",
        "]]",
        "{{",
        "}}",
        "♪♪",
        "♪♪♪",
    ],
)
NOTES = tuple("♩♪♫♬♭♮♯")


def added_tokens(folder: Path) -> dict[str, int]:
    """The ids of the tokens that a checkpoint's files add to its vocabulary.

    Read without the tokenizer, which takes a second to load. Empty where the files can't be read:
    loading them will report why.
    """
    tokens: dict[str, int] = {}
    try:
        if (file := folder / "tokenizer.json").exists():
            added = json.loads(file.read_bytes())["added_tokens"]
            tokens |= {token["content"]: token["id"] for token in added}
        if (file := folder / "tokenizer_config.json").exists():
            stated = json.loads(file.read_bytes()).get("added_tokens_decoder") or {}
            tokens |= {token["content"]: int(id_) for id_, token in stated.items()}
        if (file := folder / "added_tokens.json").exists():
            tokens |= json.loads(file.read_bytes())
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}
    return tokens


def language_ids(settings: Settings, vocabulary: Vocabulary) -> dict[str, int]:
    """Ids of language tokens by code: those that the generation config's lang_to_id names, else the
    tokens <|xx|> where xx is the code of a Whisper language.

    Raises CheckpointError for a table that the tokenizer contradicts.
    """
    stated = _named_ids(settings, "lang_to_id", vocabulary)
    if wrong := [token for token in stated if not LANGUAGE.fullmatch(token)]:
        raise CheckpointError(f"lang_to_id of the generation config has {wrong[0]}, no language")
    return _without_marks(stated) or {
        code: vocabulary[token] for code in NAMES if (token := f"<|{code}|>") in vocabulary
    }


def task_ids(settings: Settings, vocabulary: Vocabulary) -> dict[str, int]:
    """Ids of task tokens by name: those that the generation config's task_to_id names, else the
    tokenizer's. Raises as `language_ids`."""
    return _without_marks(_named_ids(settings, "task_to_id", vocabulary)) or {
        task: vocabulary[token] for task in TASKS if (token := f"<|{task}|>") in vocabulary
    }


def special_id(settings: Settings, name: str, token: str, vocabulary: Vocabulary) -> int | None:
    """The id of `token`, which the setting `name` may state. None where the checkpoint has none.
    Raises CheckpointError where the tokenizer contradicts the setting."""
    stated, known = settings.get(name), vocabulary.get(token)
    if stated is None:
        return known
    if known is not None:
        _check_id(name, token, stated, vocabulary)
    if not isinstance(stated, int):
        raise CheckpointError(f"{name} of the generation config must be a token id: {stated!r:.60}")
    return stated


def is_multilingual(
    settings: Settings, forced: Mapping[int, int | None], no_timestamps_id: int, end_id: int
) -> bool:
    """Whether prompts name language and task, for a checkpoint whose tokenizer has tokens for them.

    The generation config's is_multilingual says it. So does lang_to_id, which English-only
    checkpoints never have. Without both, a checkpoint is English-only if its old settings put
    <|notimestamps|> right behind the start token, or if its tokenizer is that of OpenAI's
    English-only models: GPT-2's, where <|endoftext|> is token 50256 (50257 in multilingual ones).
    The English-only tokenizer has language tokens too, but its models never saw them.
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

    Old tokenizers name none. Then timestamps have the ids above <|notimestamps|>, up to the
    window's `last_tick`, but within the decoder's vocabulary and below the first id that the
    tokenizer gives to another token.
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


def no_speech_id(vocabulary: Vocabulary, no_timestamps_id: int) -> int:
    """The id of <|nospeech|>, which OpenAI's first tokenizers call <|nocaptions|>; where none has
    that name, the id before <|notimestamps|>, as in transformers."""
    named = vocabulary.get("<|nospeech|>", vocabulary.get("<|nocaptions|>"))
    return no_timestamps_id - 1 if named is None else named


def non_speech_ids(encode: Callable[[str], list[int]]) -> tuple[int, ...]:
    """The tokens that openai/whisper bars by default: brackets, marks and notes with which texts
    name speakers and sounds. Hyphen and apostrophe are barred at the beginning of a word alone.

    A note that is several tokens is barred by its first one, which all notes share.
    """
    ids = {encode(" -")[0], encode(" '")[0]}
    for mark in (*MARKS, *NOTES):
        for tokens in (encode(mark), encode(f" {mark}")):
            if len(tokens) == 1 or mark in NOTES:
                ids.add(tokens[0])
    return tuple(sorted(ids))


def forced_ids(settings: Settings, config: Settings) -> dict[int, int | None]:
    """Token ids by position in the prompt, as settings from before 2024 prescribe them in
    `forced_decoder_ids`. None leaves a position open.

    Those of config.json count where the generation config has none, as in transformers.
    Raises CheckpointError for anything but pairs of a position and a token id.
    """
    name = "forced_decoder_ids"
    forced = settings[name] if name in settings else config.get(name)
    try:
        return {int(position): None if id_ is None else int(id_) for position, id_ in forced or []}
    except (TypeError, ValueError):
        raise CheckpointError(
            f"forced_decoder_ids must be pairs of a position and a token id, not {forced!r}"
        ) from None


def _named_ids(settings: Settings, name: str, vocabulary: Vocabulary) -> dict[str, int]:
    """Ids by token. Raises CheckpointError."""
    stated = settings.get(name) or {}
    if not isinstance(stated, Mapping) or not all(isinstance(id_, int) for id_ in stated.values()):
        raise CheckpointError(
            f"{name} of the generation config must map names to token ids, not {stated!r}"
        )
    ids = {f"<|{str(token).strip('<|>')}|>": id_ for token, id_ in stated.items()}
    for token, id_ in ids.items():
        _check_id(name, token, id_, vocabulary)
    return ids


def _check_id(name: str, token: str, id_: Any, vocabulary: Vocabulary) -> None:
    """Raises CheckpointError where the tokenizer gives `token` another id, or none."""
    if (known := vocabulary.get(token)) != id_:
        has = "has no such token" if known is None else f"gives it id {known}"
        raise CheckpointError(
            f"{name} of the generation config says that {token} is token {id_}; the tokenizer "
            f"{has}: correct {name} or leave it out"
        )


def _without_marks(ids: Mapping[str, int]) -> dict[str, int]:
    return {token.strip("<|>"): id_ for token, id_ in ids.items()}
