"""Text as its tokens come: joined, it is what the tokenizer makes of them all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import ByT5Tokenizer, NllbTokenizer

from antiphon.config.options import ModelOptions
from antiphon.config.sampling import SamplingParams
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.detokenizer import DecodedAgain, Streamed, TextStream, backend_of
from antiphon.inputs.processor import InputProcessor


@pytest.fixture(scope="module")
def processors(t5_folder: Path, whisper_folder: Path) -> dict[str, InputProcessor]:
    folders = {"t5": t5_folder, "whisper": whisper_folder}
    return {
        name: InputProcessor(ModelConfig.load(ModelOptions(str(folder))))
        for name, folder in folders.items()
    }


@pytest.mark.parametrize("name", ["t5", "whisper"])
@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_streamed_text_is_the_final_text(
    name: str, skip: bool, seed: int, processors: dict[str, InputProcessor]
) -> None:
    """Whisper's tokens are bytes: random ones are mostly invalid, and characters of several tokens are in between."""
    inputs, rng = processors[name], np.random.default_rng(seed)
    for _ in range(40):
        ids = rng.integers(0, inputs.model.decoder.vocab_size, int(rng.integers(1, 30))).tolist()
        for character in "aé€語🙂":
            at = int(rng.integers(0, len(ids)))
            ids[at:at] = inputs.tokenizer(character, add_special_tokens=False).input_ids
        stream = inputs.text_stream(SamplingParams(skip_special_tokens=skip))
        assert isinstance(stream._pieces, Streamed)
        pieces = []
        for id_ in ids:
            stream.add([id_])
            pieces.append(stream.take())
        pieces += [stream.take(final=True), stream.take(final=True)]
        assert "".join(pieces) == stream.text == inputs.decode(ids, skip)


def test_timestamps_are_not_shown_in_streams(processors: dict[str, InputProcessor]) -> None:
    inputs = processors["whisper"]
    ids = [530, *inputs.tokenizer("call seven", add_special_tokens=False).input_ids, 560, 560]
    stream = inputs.text_stream(SamplingParams(skip_special_tokens=False))
    stream.add(ids)
    assert stream.take(final=True) == "call seven"


def test_stop_strings_across_tokens_of_a_real_tokenizer(
    processors: dict[str, InputProcessor],
) -> None:
    inputs = processors["t5"]
    stream = inputs.text_stream(SamplingParams(stop=["hundred six"]))
    ids = inputs.tokenizer("three hundred sixty five", add_special_tokens=False).input_ids
    for id_ in ids:
        stream.add([id_])
    assert stream.stopped
    assert stream.take(final=True) == "three "


class Stubborn:
    """A stream that gives up at once, as DecodeStream does where a token changes the text before it."""

    def step(self, backend: Any, token: int) -> str:
        raise RuntimeError("Invalid prefix encountered")


@pytest.mark.parametrize(
    "make", [lambda decode: Streamed(None, decode, True), lambda decode: DecodedAgain(decode)]
)
def test_unfinished_characters_wait(make: Callable[[Any], Any]) -> None:
    def decode(ids: list[int]) -> str:
        return bytes(ids).decode(errors="replace")

    pieces = make(decode)
    if isinstance(pieces, Streamed):
        pieces._stream = Stubborn()
    stream = TextStream(decode, (), 0, False, pieces)
    shown = []
    for byte in "aé€".encode() + b"\xc3":
        stream.add([byte])
        shown.append(stream.take())
    assert "".join(shown) == "aé€"
    assert stream.take(final=True) == "\ufffd"
    assert stream.text == "aé€\ufffd"


def test_only_plain_decoding_is_streamed_by_the_library(t5_folder: Path) -> None:
    vocabulary = {
        token: id_ for id_, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", "▁", "a"])
    }
    fast = NllbTokenizer(vocab=vocabulary, merges=[])
    assert backend_of(fast) is fast.backend_tokenizer
    fast.clean_up_tokenization_spaces = True
    assert backend_of(fast) is None
    assert backend_of(ByT5Tokenizer()) is None

    class Own(NllbTokenizer):
        def decode(self, *arguments: Any, **options: Any) -> str:
            return super().decode(*arguments, **options).upper()

    assert backend_of(Own(vocab=vocabulary, merges=[])) is None
