"""Text as its tokens come: joined, it is what the tokenizer makes of them all."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from transformers import ByT5Tokenizer, NllbTokenizer

from antiphon.config.options import ModelOptions
from antiphon.config.sampling import SamplingParams
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.detokenizer import FastDecoder, SlowDecoder, TextStream, fast_tokenizer
from antiphon.inputs.processor import InputProcessor
from antiphon.inputs.token_bytes import UNFINISHED, bytes_of


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
    """Whisper's tokens are bytes: random ones are mostly invalid. Among them stand characters of
    several tokens."""
    inputs, rng = processors[name], np.random.default_rng(seed)
    for _ in range(40):
        ids = rng.integers(0, inputs.model.decoder.vocab_size, int(rng.integers(1, 30))).tolist()
        for character in "aé€語🙂":
            place = int(rng.integers(0, len(ids)))
            ids[place:place] = inputs.tokenizer(character, add_special_tokens=False).input_ids
        stream = inputs.text_stream(SamplingParams(skip_special_tokens=skip))
        assert isinstance(stream._decoder, FastDecoder)
        pieces = []
        for id_ in ids:
            stream.add([id_])
            pieces.append(stream.take())
        pieces += [stream.take(final=True), stream.take(final=True)]
        assert "".join(pieces) == stream.text == inputs.decode(ids, skip)


def test_bytes_of_tokens_that_are_parts_of_characters(
    processors: dict[str, InputProcessor],
) -> None:
    """Those of GPT-2's kind, ByT5's, and SentencePiece's `<0xE2>`."""
    text, whisper = "aé€ 語🙂", processors["whisper"]
    byt5 = ByT5Tokenizer()
    fallback: Any = SimpleNamespace(convert_ids_to_tokens=lambda id_: f"<0x{id_:02X}>")
    for tokenizer, ids in (
        (whisper.tokenizer, whisper.tokenizer(text, add_special_tokens=False).input_ids),
        (byt5, byt5(text, add_special_tokens=False).input_ids),
        (fallback, list(text.encode())),
    ):
        shown = [UNFINISHED if tokenizer is fallback else tokenizer.decode([id_]) for id_ in ids]
        parts = [bytes_of(tokenizer, id_, one) for id_, one in zip(ids, shown, strict=True)]
        assert b"".join(part for part in parts if part is not None) == text.encode()
    unknown: Any = SimpleNamespace(convert_ids_to_tokens=lambda _: "語")
    assert bytes_of(unknown, 1, UNFINISHED) is None
    (id_,) = whisper.tokenizer("€", add_special_tokens=False).input_ids[:1]
    assert whisper.token_bytes(id_, whisper.decode([id_])) == [0xE2]


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


@pytest.mark.parametrize("name", ["t5", "whisper"])
def test_a_copy_goes_on_by_itself(name: str, processors: dict[str, InputProcessor]) -> None:
    """Sequences of a beam search begin alike; a character may be torn between them."""
    inputs = processors[name]
    params = SamplingParams(stop=["€x"])
    one, *others = (
        inputs.tokenizer(text, add_special_tokens=False).input_ids
        for text in ("nine€y", "nine€x and", "nine hundred")
    )
    for other in others:
        for shared in range(1, len(one) + 1):
            stream = inputs.text_stream(params)
            stream.add(one[:shared])
            branch, alone = stream.copy(), inputs.text_stream(params)
            branch.add(other)
            stream.add(one[shared:])
            alone.add([*one[:shared], *other])
            assert (branch.take(final=True), branch.stopped) == (
                alone.take(final=True), alone.stopped,
            )  # fmt: skip
            assert branch.token_ids == alone.token_ids
            assert stream.take(final=True) == inputs.decode(one)


class Stubborn:
    """Gives up at once, as DecodeStream does when a token changes the text before it."""

    def step(self, backend: Any, token: int) -> str:
        raise RuntimeError("Invalid prefix encountered")


@pytest.mark.parametrize(
    "make", [lambda decode: FastDecoder(None, decode, True), lambda decode: SlowDecoder(decode)]
)
def test_unfinished_characters_wait(make: Callable[[Any], Any]) -> None:
    def decode(ids: list[int]) -> str:
        return bytes(ids).decode(errors="replace")

    decoder = make(decode)
    if isinstance(decoder, FastDecoder):
        decoder._stream = Stubborn()
    stream = TextStream(decoder, (), 0, False)
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
    assert fast_tokenizer(fast) is fast.backend_tokenizer
    fast.clean_up_tokenization_spaces = True
    assert fast_tokenizer(fast) is None
    assert fast_tokenizer(ByT5Tokenizer()) is None

    class Own(NllbTokenizer):
        def decode(self, *arguments: Any, **options: Any) -> str:
            return super().decode(*arguments, **options).upper()

    assert fast_tokenizer(Own(vocab=vocabulary, merges=[])) is None


def words(ids: list[int]) -> str:
    return "".join(chr(id_) for id_ in ids)


def utf8(ids: list[int]) -> str:
    return bytes(ids).decode(errors="replace")


def test_stop_strings_are_found_across_tokens_and_held_back_while_streaming() -> None:
    stream = TextStream(SlowDecoder(words), ("END", "xyz"), 0, include_stop=False)
    shown = ""
    for character in "hello ENx EN":
        stream.add([ord(character)])
        shown += stream.take()
        assert not stream.stopped
    assert "hello ENx EN".startswith(shown)
    assert len("hello ENx EN") - len(shown) == 2
    stream.add([ord("D"), ord("!")])
    assert stream.stopped
    assert shown + stream.take(final=True) == "hello ENx "
    assert len(stream.token_ids) == len("hello ENx END")


def test_stop_strings_wait_for_min_tokens_and_may_be_kept() -> None:
    stream = TextStream(SlowDecoder(words), ("b",), 3, include_stop=True)
    stream.add([ord(c) for c in "abcb..."])
    assert (stream.text, stream.stopped) == ("abcb", True)


def test_unfinished_characters_wait_for_their_bytes() -> None:
    stream = TextStream(SlowDecoder(utf8), (), 0, False)
    shown = []
    for byte in "aé€".encode():
        stream.add([byte])
        shown.append(stream.take())
    assert shown == ["a", "", "é", "", "", "€"]
    cut = TextStream(SlowDecoder(utf8), (), 0, False)
    cut.add(list("é".encode()[:1]))
    assert cut.take(final=True) == "�"
