"""Arrays and tensors in messages: as they lie in memory, in frames of bounded size."""

from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from message_samples import TOKEN, frames_of, request, there_and_back

from antiphon.actors import messages, wire
from antiphon.actors.frames import MessageError
from antiphon.actors.messages import Input, Submit
from antiphon.actors.wire import MessageDecoder, MessageEncoder
from antiphon.kv.handoff import HiddenStates
from antiphon.scheduler.generated import TokenLogprobs
from antiphon.scheduler.outputs import StepOutput
from antiphon.scheduler.request import Finished, RequestMetrics

# ---------------------------------------------------------------------- arrays


def test_long_arrays_are_not_copied_and_cut_into_bounded_frames() -> None:
    array = np.arange(3_000_000, dtype=np.float32)
    head, *pieces = MessageEncoder(TOKEN).encode(Input("f", "k", array))
    assert len(head) < 200
    assert [len(piece) for piece in pieces] == [4 << 20, 4 << 20, array.nbytes - (8 << 20)]
    assert all(np.shares_memory(np.frombuffer(piece, np.uint8), array) for piece in pieces)
    received = [memoryview(bytearray(frame)) for frame in (head, *pieces)]
    (arrived,) = MessageDecoder().decode(received)
    assert np.array_equal(arrived.array, array)
    (small,) = MessageDecoder().decode(frames := frames_of(Input("f", "k", array[:1000])))
    assert np.shares_memory(small.array, np.frombuffer(frames[1], np.uint8))


def test_equal_arrays_in_a_message_travel_once() -> None:
    prompts = [np.arange(400) for _ in range(8)]  # equal, not the same
    frames = MessageEncoder(TOKEN).encode(
        Submit([request(number, prompt_token_ids=prompt) for number, prompt in enumerate(prompts)])
    )
    assert len(frames) == 2
    long = np.arange(100_000)
    shared = [request(number, prompt_token_ids=long) for number in range(3)]
    assert len(frames_of(Submit([*shared, request(3, prompt_token_ids=long + 1)]))) == 3


def test_a_long_head_is_cut_too() -> None:
    logprobs = [TokenLogprobs([1] * 20, [0.5] * 20, [2] * 20) for _ in range(20_000)]
    finished = Finished(0, "done", [1] * 20_000, "stop", None, logprobs, RequestMetrics(0.0))
    message = messages.Output(StepOutput("f", finished=[finished]))
    assert len(frames_of(message)) > 1
    arrived = there_and_back(message)
    assert isinstance(arrived, messages.Output)
    assert arrived.output.finished[0].logprobs == logprobs


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
)
def test_hidden_states_of_every_dtype_are_equal(dtype: torch.dtype) -> None:
    states = HiddenStates(("a", "b"), (20, 30), torch.randn(50, 16).to(dtype))
    frames = MessageEncoder(TOKEN).encode(states)
    assert np.shares_memory(
        np.frombuffer(frames[1], np.uint8), states.packed.view(torch.uint8).numpy()
    )
    arrived = there_and_back(states)
    assert isinstance(arrived, HiddenStates)
    assert (arrived.keys, arrived.lengths, arrived.ready) == (states.keys, states.lengths, None)
    assert arrived.packed.dtype == dtype
    assert torch.equal(arrived.packed.float(), states.packed.float())


@pytest.mark.parametrize(
    ("code", "description"),
    [
        (1, ("|O", (1,), b"12345678")),  # objects would be pointers
        (1, ("<f4", (3,), b"1234")),
        (1, ("<f4", (2**40,), 0)),
        (1, ("<f4", (-1,), b"1234")),
        (1, ("<f4", (1,), 7)),
        (1, ("<f4", (1,), -1)),
        (1, ("nonsense", (1,), b"1234")),
        (2, ("torch.load", (1,), b"1234")),
        (2, ("torch.float32", (2,), b"1234")),
        (9, ("<f4", (1,), b"1234")),
    ],
)
def test_arrays_that_are_not_what_they_say_are_refused(code: int, description: Any) -> None:
    extension = msgspec.msgpack.Ext(code, msgspec.msgpack.encode(description))
    head = msgspec.msgpack.encode(["Input", "f", "k", extension])
    prefix = TOKEN + (1).to_bytes(4, "little")
    with pytest.raises(MessageError):
        MessageDecoder().decode([memoryview(prefix + head)])


def test_a_message_over_the_limit_is_refused_by_its_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_MESSAGE_BYTES", 1000)
    with pytest.raises(MessageError, match="over the 1000 of one message"):
        MessageEncoder(TOKEN).encode(Input("f", "k", np.zeros(10_000)))
