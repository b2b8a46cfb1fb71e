"""Whisper checkpoints with added tokens and old settings: which tokens are times and languages."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from antiphon.config.decoding_rules import DecodingRules, TimestampRules
from antiphon.config.errors import CheckpointError
from antiphon.config.options import ModelOptions
from antiphon.config.sampling import SamplingParams
from antiphon.decoder.sampling.sampler import Sampler
from antiphon.decoder.sampling.samples import Samples
from antiphon.decoder.state import Slots
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.processor import InputProcessor
from antiphon.inputs.whisper.format import WhisperFormat
from antiphon.inputs.whisper.tokens import timestamp_ids
from antiphon.scheduler.plan import Admission

END, START, ENGLISH, GERMAN, TRANSLATE, TRANSCRIBE, NO_TIMES, ZERO = (
    520,
    521,
    522,
    523,
    524,
    525,
    529,
    530,
)
LAST = ZERO + 400  # the shipped model's window of 8 seconds
OLD = ("lang_to_id", "task_to_id", "is_multilingual", "no_timestamps_token_id", "prev_sot_token_id")
Make = Callable[..., WhisperFormat]


@pytest.fixture(scope="module")
def vocabulary(whisper_folder: Path) -> dict[str, int]:
    model = ModelConfig.load(ModelOptions(str(whisper_folder)))
    return InputProcessor(model).tokenizer.get_vocab()


@pytest.fixture
def make(tmp_path: Path, whisper_folder: Path, vocabulary: dict[str, int]) -> Make:
    """The shipped model's format, with changed settings and vocabulary.

    `without`: names of settings to leave out. `added`: tokens to add, with their ids.
    """

    def make_format(
        without: tuple[str, ...] = (),
        added: dict[str, int] | None = None,
        removed: Callable[[str], bool] = lambda token: False,
        config: dict[str, Any] | None = None,
        **settings: Any,
    ) -> WhisperFormat:
        stated = json.loads((whisper_folder / "generation_config.json").read_text())
        kept = {name: value for name, value in stated.items() if name not in without}
        (tmp_path / "generation_config.json").write_text(json.dumps({**kept, **settings}))
        own = json.loads((whisper_folder / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**own, **(config or {})}))
        tokens = {token: id_ for token, id_ in vocabulary.items() if not removed(token)} | (
            added or {}
        )
        model = ModelConfig.load(ModelOptions(str(tmp_path)))
        return WhisperFormat(model, SimpleNamespace(get_vocab=lambda: tokens))

    return make_format


def is_time(token: str) -> bool:
    return token.startswith("<|") and token[2].isdigit()


def test_the_shipped_model(make: Make) -> None:
    whisper = make()
    assert (whisper.first_timestamp_id, whisper.last_timestamp_id) == (ZERO, LAST)
    assert whisper.languages == {"de": GERMAN, "en": ENGLISH}
    assert whisper.multilingual
    assert (whisper.default_language, whisper.default_task) == (None, "transcribe")


def test_added_tokens_behind_the_timestamps_are_text(make: Make) -> None:
    whisper = make(
        added={"Antiphon": LAST + 1, "colocated": LAST + 2}, config={"vocab_size": LAST + 3}
    )
    rules = whisper.rules()
    assert rules is not None
    assert (rules.first_id, rules.last_id) == (ZERO, LAST)
    (segment,) = whisper.segments([ZERO + 5, 7, LAST + 1, 8, ZERO + 50])
    assert segment.token_ids == [7, LAST + 1, 8]
    assert (segment.start, segment.end) == pytest.approx((0.1, 1.0))


def test_a_tokenizer_without_timestamps_leaves_them_to_the_window(make: Make) -> None:
    whisper = make(removed=is_time)
    assert (whisper.first_timestamp_id, whisper.last_timestamp_id) == (ZERO, LAST)


def test_tokens_added_where_timestamps_would_be_are_text(make: Make) -> None:
    """Old tokenizers end at <|notimestamps|>: what was added to one took the timestamps' ids."""
    whisper = make(removed=is_time, added={"Antiphon": ZERO, "colocated": ZERO + 1})
    assert not whisper.times
    assert whisper.rules() is None
    assert whisper.is_text(ZERO)
    assert whisper.prompt("de", "transcribe", timestamps=True)[-1] == NO_TIMES
    (segment,) = whisper.segments([5, ZERO, 6])
    assert (segment.token_ids, segment.end) == ([5, ZERO, 6], None)
    part = make(removed=is_time, added={"Antiphon": ZERO + 100})
    assert part.last_timestamp_id == ZERO + 99


def test_a_gap_ends_the_timestamps() -> None:
    tokens = {f"<|{tick * 0.02:.2f}|>": 100 + tick for tick in range(50)}
    assert timestamp_ids(tokens, 99, 1500, 1000) == range(100, 150)
    assert timestamp_ids({**tokens, "<|0.20|>": 500}, 99, 1500, 1000) == range(100, 110)
    assert timestamp_ids(tokens, 99, 1500, 120) == range(100, 120)
    assert timestamp_ids({}, 99, 1500, 1000) == range(100, 1000)


@pytest.mark.parametrize(
    "absent",
    [
        OLD,
        ("lang_to_id",),
        ("task_to_id",),
        ("is_multilingual",),
        ("lang_to_id", "is_multilingual"),
    ],
)
def test_old_settings_do_not_make_a_model_english_only(absent: tuple[str, ...], make: Make) -> None:
    whisper = make(without=absent)
    assert whisper.multilingual
    assert whisper.languages == {"de": GERMAN, "en": ENGLISH}
    assert whisper.tasks == {"transcribe": TRANSCRIBE, "translate": TRANSLATE}
    assert whisper.no_timestamps_id == NO_TIMES
    assert whisper.previous_id == 527
    assert whisper.prompt("de", "translate", timestamps=False) == [
        START,
        GERMAN,
        TRANSLATE,
        NO_TIMES,
    ]


@pytest.mark.parametrize(
    ("settings", "config"),
    [
        ({"is_multilingual": False}, {}),
        ({"forced_decoder_ids": [[1, NO_TIMES]]}, {}),
        ({}, {"forced_decoder_ids": [[1, NO_TIMES]]}),
    ],
)
def test_english_only_models_are_known(
    settings: dict[str, Any], config: dict[str, Any], make: Make
) -> None:
    whisper = make(without=OLD, config=config, **settings)
    assert not whisper.multilingual
    assert whisper.prompt(None, "transcribe", timestamps=True) == [START]


def test_openai_s_english_only_tokenizer_is_known_by_its_end(
    make: Make, vocabulary: dict[str, int]
) -> None:
    whisper = make(
        without=OLD,
        added={"<|endoftext|>": 50256, "<|notimestamps|>": 50362},
        eos_token_id=50256,
        config={"vocab_size": 51864},
        removed=is_time,
    )
    assert not whisper.multilingual
    assert (whisper.first_timestamp_id, whisper.last_timestamp_id) == (50363, 50363 + 400)
    multilingual = make(
        without=OLD,
        added={"<|endoftext|>": 50257},
        eos_token_id=50257,
        config={"vocab_size": 51865},
    )
    assert multilingual.multilingual


def test_no_language_tokens_no_languages(make: Make) -> None:
    assert not make(without=OLD, removed=lambda token: token in ("<|de|>", "<|en|>")).multilingual


@pytest.mark.parametrize(
    ("settings", "config", "default"),
    [
        (
            {"forced_decoder_ids": [[1, None], [2, TRANSCRIBE], [3, NO_TIMES]]},
            {},
            (None, "transcribe"),
        ),
        ({"forced_decoder_ids": [[1, GERMAN], [2, TRANSLATE]]}, {}, ("de", "translate")),
        ({}, {"forced_decoder_ids": [[1, GERMAN], [2, TRANSCRIBE]]}, ("de", "transcribe")),
        ({"forced_decoder_ids": None}, {"forced_decoder_ids": [[1, GERMAN]]}, (None, "transcribe")),
        (
            {"language": "german", "forced_decoder_ids": [[1, ENGLISH], [2, TRANSLATE]]},
            {},
            ("de", "transcribe"),
        ),
        ({"language": "<|de|>", "task": "translate"}, {}, ("de", "translate")),
        ({"language": "klingon"}, {}, (None, "transcribe")),
    ],
    ids=str,
)  # fmt: skip
def test_defaults_of_language_and_task(
    settings: dict[str, Any], config: dict[str, Any], default: tuple[str | None, str], make: Make
) -> None:
    whisper = make(config=config, **settings)
    assert (whisper.default_language, whisper.default_task) == default


@pytest.mark.parametrize(
    "settings",
    [{"lang_to_id": [1]}, {"task_to_id": {"translate": "x"}}, {"forced_decoder_ids": [1, 2]}],
    ids=str,
)
def test_broken_settings_are_named(settings: dict[str, Any], make: Make) -> None:
    with pytest.raises(CheckpointError, match=next(iter(settings))):
        make(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lang_to_id": {"<|en|>": ENGLISH, "<|de|>": 7}}, "<|de|> is token 7; {gives} 523"),
        ({"lang_to_id": {"<|de|>": ENGLISH}}, "<|de|> is token 522; {gives} 523"),
        ({"lang_to_id": {"<|fr|>": GERMAN}}, "<|fr|> is token 523; {lacks}"),
        ({"lang_to_id": {"<|fr|>": -1}}, "<|fr|> is token -1; {lacks}"),
        ({"lang_to_id": {"<|translate|>": TRANSLATE}}, "has <|translate|>, no language"),
        ({"task_to_id": {"translate": TRANSCRIBE}}, "<|translate|> is token 525; {gives} 524"),
        ({"task_to_id": {"summarize": 7}}, "<|summarize|> is token 7; {lacks}"),
        ({"no_timestamps_token_id": ZERO}, "<|notimestamps|> is token 530; {gives} 529"),
        ({"prev_sot_token_id": 3}, "<|startofprev|> is token 3; {gives} 527"),
    ],
    ids=str,
)
def test_settings_that_contradict_the_tokenizer_are_refused(
    settings: dict[str, Any], message: str, make: Make
) -> None:
    says = {"gives": "the tokenizer gives it id", "lacks": "the tokenizer has no such token"}
    with pytest.raises(CheckpointError, match=re.escape(message.format(**says))) as caught:
        make(**settings)
    assert next(iter(settings)) in str(caught.value)


def test_a_setting_for_a_token_that_the_tokenizer_lacks(make: Make) -> None:
    lacking: Callable[[str], bool] = lambda token: token == "<|startofprev|>"
    assert make(prev_sot_token_id=7, removed=lacking).previous_id == 7
    with pytest.raises(CheckpointError, match=r"prev_sot_token_id .* must be a token id: 'x'"):
        make(prev_sot_token_id="x", removed=lacking)


def test_a_table_of_some_languages_or_of_own_ones_is_believed(make: Make) -> None:
    assert make(lang_to_id={"<|de|>": GERMAN}).languages == {"de": GERMAN}
    assert make(lang_to_id={"de": GERMAN}).languages == {"de": GERMAN}
    own = make(lang_to_id={"<|gsw-BE|>": 3}, added={"<|gsw-BE|>": 3})
    assert own.languages == {"gsw-BE": 3}


RULES = TimestampRules(first_id=20, no_timestamps_id=19, end_id=18, max_initial=3, last_id=26)


@pytest.mark.parametrize(
    ("tokens", "logits", "wanted"),
    [
        ([1], {28: 9.0, 21: 1.0}, 21),  # the first token is a time, and an added token is none
        ([1, 20, 28], {28: 3.0, 24: 1.0}, 28),  # added tokens may follow each other like text
        (
            [1, 20, 28, 25],
            {29: 9.0, 25: 1.0},
            25,
        ),  # an open time is said again: no added token in between
        ([1, 20, 28, 25, 25], {29: 3.0, 26: 1.0}, 29),  # behind a closed pair comes text
        (
            [1, 20, 4, 24, 24, 28],
            {22: 9.0, 26: 1.0},
            26,
        ),  # an added id is no time that later ones must exceed
    ],
)
def test_timestamp_rules_end_where_the_timestamps_do(
    tokens: list[int], logits: dict[int, float], wanted: int
) -> None:
    slots = Slots(2, 24, 30, torch.device("cpu"))
    rules = DecodingRules(timestamps=RULES)
    slots.admit([Admission(0, np.array(tokens), 1, 24, 0, SamplingParams(), rules)])
    row = torch.tensor([[logits.get(id_, -5.0) for id_ in range(30)]])
    samples = Samples.empty(1, slots.device)
    Sampler(slots, RULES).greedy(row, torch.tensor([0]), torch.tensor([len(tokens)]), samples)
    assert samples.tokens.tolist() == [wanted]
