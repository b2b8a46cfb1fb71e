"""Messages for tests: there and back through frames, and strategies for any of them."""

import dataclasses
import math
from typing import Any

import msgspec
import numpy as np
import torch
from hypothesis import strategies as st

from antiphon.actors import messages
from antiphon.actors.address import Address
from antiphon.actors.frames import MAX_FRAME_BYTES
from antiphon.actors.messages import Message
from antiphon.actors.wire import MessageDecoder, MessageEncoder
from antiphon.config.decoding_rules import DecodingRules, TimestampRules
from antiphon.config.sampling import SamplingParams
from antiphon.scheduler.generated import TokenLogprobs
from antiphon.scheduler.request import Media, Request, RequestId

TOKEN = b"0123456789abcdef"


def frames_of(message: Message) -> list[memoryview]:
    frames = MessageEncoder(TOKEN).encode(message)
    assert bytes(frames[0][: len(TOKEN)]) == TOKEN
    assert all(len(frame) <= MAX_FRAME_BYTES for frame in frames)
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
