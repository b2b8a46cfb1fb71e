"""Texts that are far too long are refused by their beginning, and those that fit never are."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from antiphon.config.errors import PromptError
from antiphon.config.options import ModelOptions
from antiphon.config.sampling import SamplingParams
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.bounded_text import bounded_ids, longest_read
from antiphon.inputs.calls.earlier_text import MOST_CHARACTERS
from antiphon.inputs.processor import InputProcessor

LIMIT = 20
MIB = 1 << 20


class Counting:
    """A tokenizer of another's texts, which counts what it reads."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.characters = tokenizer, 0

    def __call__(self, text: str, **options: Any) -> Any:
        self.characters += len(text)
        return self.tokenizer(text, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)


def words(text: str) -> Any:
    """A token a word."""
    return SimpleNamespace(input_ids=list(range(len(text.split()))))


@pytest.fixture(scope="module")
def t5(t5_folder: Path) -> InputProcessor:
    options = ModelOptions(str(t5_folder), max_encoder_len=LIMIT, max_model_len=LIMIT)
    return InputProcessor(ModelConfig.load(options))


@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_long_prompts_are_not_tokenized_whole(t5: InputProcessor, half: str, monkeypatch) -> None:
    counting = Counting(t5.tokenizer)
    monkeypatch.setattr(t5, "tokenizer", counting)
    text = "in words: 42 " * (5 * MIB // 13)
    prompt: Any = text if half == "encoder" else {"encoder_prompt": "x", "decoder_prompt": text}
    with pytest.raises(PromptError, match=rf"{len(text)} characters .* may be {LIMIT}: shorten"):
        t5.prepare(prompt, SamplingParams())
    assert counting.characters <= longest_read(LIMIT) + 1


def test_just_over_and_just_under(t5: InputProcessor) -> None:
    """Nothing but the number of tokens decides, however many characters those have."""
    most = LIMIT - 2  # beside what the tokenizer puts around a text
    for blank in (" ", " " * 10 * longest_read(LIMIT)):
        text = blank.join(["w"] * 2)
        assert bounded_ids(words, text, LIMIT) == [0, 1]
    counts = {count: len(t5.tokenizer("4" * count).input_ids) for count in range(1, 40)}
    fits = max(count for count, tokens in counts.items() if tokens <= LIMIT)
    assert fits >= most // 2
    t5.prepare("4" * fits, SamplingParams())
    with pytest.raises(PromptError, match=f"tokens of text are over the encoder's {LIMIT}"):
        t5.prepare("4" * (fits + 1), SamplingParams())


def test_a_chat_may_be_as_long_as_the_half_that_reads_it(t5_folder: Path) -> None:
    options = ModelOptions(str(t5_folder), max_model_len=LIMIT)
    inputs = InputProcessor(ModelConfig.load(options))
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    text = "in words: 42 " * 100
    chat = {"messages": [{"role": "user", "content": text}], "chat_template": template}
    (media,) = inputs.prepare(chat, SamplingParams()).inputs
    assert media.num_tokens > 2 * LIMIT


def test_long_texts_of_few_tokens_fit(t5: InputProcessor) -> None:
    """A vocabulary without these characters has one token for any number of them."""
    text = "日" * (8 * longest_read(LIMIT))
    ids = t5.tokenizer(text).input_ids
    assert len(ids) <= LIMIT
    (media,) = t5.prepare(text, SamplingParams()).inputs
    assert media.payload.tolist() == ids


@settings(deadline=None)
@given(st.lists(st.sampled_from(["w", " ", " " * 500, "w" * 3000, " w"]), max_size=60))
def test_ids_are_those_of_the_whole_text(pieces: list[str]) -> None:
    text, limit = "".join(pieces), 8
    expected = words(text).input_ids
    try:
        assert bounded_ids(words, text, limit) == expected
    except PromptError:
        assert len(expected) > limit


# ---------------------------------------------------------------------- before a window


@pytest.fixture(scope="module")
def whisper(whisper_folder: Path) -> InputProcessor:
    return InputProcessor(ModelConfig.load(ModelOptions(str(whisper_folder))))


@pytest.mark.parametrize("option", ["initial_prompt", "hotwords", "prefix"])
@pytest.mark.parametrize("text", ["\ud800", "seven \udce9"])
def test_texts_before_a_window_are_texts(whisper: InputProcessor, option: str, text: str) -> None:
    with pytest.raises(PromptError, match="half of a surrogate pair") as caught:
        whisper.check_transcription(**{option: text})
    assert caught.value.parameter == option


def test_what_reaches_no_window_is_not_tokenized(whisper: InputProcessor, monkeypatch) -> None:
    counting = Counting(whisper.tokenizer)
    assert whisper.whisper is not None
    monkeypatch.setattr(whisper.whisper, "_tokenizer", counting)
    text = " ".join(f"call {number}" for number in range(400_000))
    room = whisper.whisper.positions // 2
    for option, part in (("initial_prompt", text[-5000:]), ("hotwords", text[:5000])):
        whole, short = (
            getattr(whisper.check_transcription(**{option: given}).earlier, kept)
            for given in (text, part)
            for kept in [option.removesuffix("_prompt")]
        )
        cut = slice(-room, None) if option == "initial_prompt" else slice(room)
        assert whole[cut] == short[cut]
    assert counting.characters < 3 * MOST_CHARACTERS
