"""Messages as frames, and back: nothing is lost, and what cannot travel is said."""

import contextlib
import dataclasses
import math
from collections import defaultdict
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from antiphon.actors import messages, wire
from antiphon.actors.address import Address
from antiphon.actors.frames import MessageError
from antiphon.actors.messages import Input, Message, Submit, Unreadable
from antiphon.actors.wire import MessageDecoder, MessageEncoder
from antiphon.config.decoding_rules import DecodingRules, TimestampRules
from antiphon.config.sampling import SamplingParams
from antiphon.kv.handoff import HiddenStates
from antiphon.scheduler.request import (
    Finished,
    Media,
    Request,
    RequestId,
    RequestMetrics,
    StepOutput,
    TokenLogprobs,
)

TOKEN = b"0123456789abcdef"


def frames_of(message: Message) -> list[memoryview]:
    frames = MessageEncoder(TOKEN).encode(message)
    assert bytes(frames[0][: len(TOKEN)]) == TOKEN
    assert all(len(frame) <= wire.MAX_FRAME_BYTES for frame in frames)
    return [memoryview(bytearray(frame)) for frame in frames]  # as they are received: writeable


def there_and_back(message: Message) -> Message:
    (arrived,) = MessageDecoder().decode(frames_of(message))
    return arrived


def plain(value: Any) -> Any:
    """A value that can be compared: arrays are their contents, objects their fields."""
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tobytes()
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.reshape(-1).view(torch.uint8).tolist()
    if isinstance(value, msgspec.Struct):
        return type(value), [plain(getattr(value, name)) for name in value.__struct_fields__]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return type(value), {name: plain(content) for name, content in fields.items()}
    if isinstance(value, (list, tuple)):
        return type(value), [plain(item) for item in value]
    return value


# ---------------------------------------------------------------------- any message

numbers = st.integers(0, 2**62)
texts = st.text(max_size=8)
token_ids = st.lists(st.integers(0, 2**31 - 1), max_size=5)
floats = st.floats(allow_nan=False)
ids = st.builds(RequestId, texts, numbers)
dtypes = st.sampled_from([np.int32, np.int64, np.float32, np.float16, np.uint8, np.bool_])


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    shape = draw(st.lists(st.integers(0, 40), max_size=2))
    size = math.prod(shape)
    values = np.arange(draw(st.integers(0, 99)), size + 100)[:size] % 120
    return values.astype(draw(dtypes)).reshape(shape)


tensors = st.builds(
    lambda rows, dtype: torch.arange(rows * 6).reshape(rows, 6).to(dtype),
    st.integers(0, 60),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn]),
)
params = st.builds(
    lambda options: SamplingParams(**options),
    st.fixed_dictionaries(
        {},
        optional={
            "temperature": st.floats(0.0, 10.0),
            "top_p": st.floats(0.1, 1.0),
            "seed": numbers,
            "stop": st.lists(st.text(min_size=1, max_size=4), max_size=3),
            "stop_token_ids": token_ids,
            "max_tokens": st.integers(1, 100),
            "logprobs": st.integers(0, 20),
            "allowed_token_ids": st.lists(st.integers(0, 99), min_size=1, max_size=4),
            "logit_bias": st.dictionaries(st.integers(0, 99), st.floats(-9, 9), max_size=3),
            "ignore_eos": st.booleans(),
        },
    ),
)
timestamps = st.builds(TimestampRules, numbers, numbers, numbers, st.none() | numbers)
rules = st.builds(
    DecodingRules,
    stop_ids=token_ids.map(tuple),
    forced_first=st.none() | numbers,
    bad_words=st.lists(token_ids.map(tuple), max_size=2).map(tuple),
    timestamps=st.none() | timestamps,
)
inputs = st.builds(
    lambda key, kind, count, position: Media(key, kind, count, position=position),
    texts,
    st.sampled_from(["text", "audio"]),
    numbers,
    st.none() | numbers,
)
requests = st.builds(
    Request,
    id=ids,
    prompt_token_ids=token_ids.map(lambda tokens: np.array(tokens, np.int64)),
    inputs=st.lists(inputs, max_size=2).map(tuple),
    params=params,
    rules=rules,
    max_tokens=numbers,
    seed=numbers,
    streams=st.booleans(),
    priority=st.integers(-5, 5),
    timeout=st.none() | floats,
    generated=token_ids,
)
logprobs = st.builds(TokenLogprobs, token_ids, st.lists(floats, max_size=3), token_ids)
SPECIAL: dict[type, st.SearchStrategy[Any]] = {
    np.ndarray: arrays(),
    torch.Tensor: tensors,
    torch.cuda.Event: st.none(),
    Request: requests,
    TokenLogprobs: logprobs,
    float: floats,
    int: st.integers(-(2**63), 2**63 - 1),
    messages.Member: st.builds(
        messages.Member, texts, texts, numbers, st.none(), load=st.dictionaries(texts, floats)
    ),
    Address: st.builds(Address, texts, texts, texts, st.binary(max_size=40), st.binary()),
}
for kind, strategy in SPECIAL.items():
    st.register_type_strategy(kind, strategy)
kinds = [kind for kind in wire._message_types() if kind is not wire._Submit]


@settings(max_examples=150, deadline=None)
@given(st.one_of([st.builds(kind) for kind in [*kinds, Submit]]))
def test_every_message_arrives_as_it_was_sent(message: Message) -> None:
    frames = frames_of(message)
    arrived = MessageDecoder().decode(frames)
    if isinstance(message, Submit) and not message.requests:
        assert arrived == []
    else:
        assert [plain(item) for item in arrived] == [plain(message)]


@given(st.binary(max_size=300))
def test_bytes_that_are_no_message_raise_only_message_errors(content: bytes) -> None:
    frame = memoryview(bytearray(TOKEN + (1).to_bytes(4, "little") + content))
    with contextlib.suppress(MessageError):
        MessageDecoder().decode([frame])


@settings(max_examples=60, deadline=None)
@given(st.builds(Submit), st.data())
def test_damaged_messages_raise_only_message_errors(message: Message, data: st.DataObject) -> None:
    frames = frames_of(message)
    frame = frames[data.draw(st.integers(0, len(frames) - 1))]
    if len(frame) > 16:
        frame[data.draw(st.integers(16, len(frame) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(MessageError):
        MessageDecoder().decode(frames)


# ---------------------------------------------------------------------- requests


def request(number: int = 0, **fields: Any) -> Request:
    values: dict[str, Any] = {
        "prompt_token_ids": np.array([1, 2]),
        "inputs": (Media("key", "audio", 1500),),
        "params": SamplingParams(),
        "rules": DecodingRules(),
        "max_tokens": 8,
        "seed": 0,
    }
    return Request(RequestId("frontend", number), **{**values, **fields})


@pytest.mark.parametrize(
    "bias", [MappingProxyType({5: -1.0}), defaultdict(float, {5: -1.0}), {np.int64(5): -1}]
)
def test_parameters_of_any_form_that_was_accepted_travel(bias: Any) -> None:
    params = SamplingParams(logit_bias=bias, stop=("a", "b"), top_p=np.float32(0.5), n=1)
    arrived = there_and_back(Submit([request(params=params)]))
    assert isinstance(arrived, Submit)
    assert arrived.requests[0].params == params
    assert arrived.requests[0].params.given == params.given
    assert hash(arrived.requests[0].params) == hash(params)


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": 2**70},
        {"priority": object()},
        {"prompt_token_ids": np.array(["text"])},
        {"prompt_token_ids": np.array([None])},
        {"inputs": (Media("key", "audio", 1, payload=lambda: None),)},
    ],
)
def test_what_cannot_travel_is_said_where_it_is_sent(fields: dict[str, Any]) -> None:
    encoder = MessageEncoder(TOKEN)
    with pytest.raises(MessageError, match="cannot be sent"):
        encoder.encode(Submit([request(**fields)]))
    assert MessageDecoder().decode([memoryview(encoder.encode(Submit([request()]))[0])])


def test_a_request_that_cannot_be_read_harms_no_other() -> None:
    bad = request(1, max_tokens="eight")
    worse = request(2)
    object.__setattr__(worse.params, "temperature", -5.0)
    object.__setattr__(worse.params, "given", frozenset({"temperature"}))
    encoded = frames_of(Submit([request(0), bad, worse, request(3)]))
    first, *unreadable = MessageDecoder().decode(encoded)
    assert isinstance(first, Submit)
    assert [arrived.id.number for arrived in first.requests] == [0, 3]
    assert [message.request_id.number for message in unreadable] == [1, 2]
    assert "cannot be read: ValidationError" in unreadable[0].error
    assert "temperature" in unreadable[1].error
    (alone,) = MessageDecoder().decode(frames_of(Submit([bad])))
    assert isinstance(alone, Unreadable)


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
