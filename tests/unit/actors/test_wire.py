"""Messages as frames, and back: nothing is lost, and what cannot travel is said."""

import contextlib
from collections import defaultdict
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from message_samples import TOKEN, frames_of, plain, request, there_and_back
from random_examples import examples

from antiphon.actors import wire
from antiphon.actors.frames import MessageError
from antiphon.actors.messages import Message, Submit, Unreadable
from antiphon.actors.wire import MessageDecoder, MessageEncoder
from antiphon.config.sampling import SamplingParams
from antiphon.scheduler.request import (
    Media,
)

kinds = [kind for kind in wire._message_types() if kind is not wire._Submit]


@examples(150)
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


@examples(60)
@given(st.builds(Submit), st.data())
def test_damaged_messages_raise_only_message_errors(message: Message, data: st.DataObject) -> None:
    frames = frames_of(message)
    frame = frames[data.draw(st.integers(0, len(frames) - 1))]
    if len(frame) > 16:
        frame[data.draw(st.integers(16, len(frame) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(MessageError):
        MessageDecoder().decode(frames)


# ---------------------------------------------------------------------- requests


@pytest.mark.parametrize(
    "bias", [MappingProxyType({5: -1.0}), defaultdict(float, {5: -1.0}), {np.int64(5): -1}]
)
def test_parameters_of_any_form_that_was_accepted_travel(bias: Any) -> None:
    params = SamplingParams(logit_bias=bias, stop=("a", "b"), top_p=np.float32(0.5), n=1)
    arrived = there_and_back(Submit([request(params=params)]))
    assert isinstance(arrived, Submit)
    assert arrived.requests[0].params == params
    assert arrived.requests[0].params.fields_set == params.fields_set
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
    object.__setattr__(worse.params, "fields_set", frozenset({"temperature"}))
    encoded = frames_of(Submit([request(0), bad, worse, request(3)]))
    first, *unreadable = MessageDecoder().decode(encoded)
    assert isinstance(first, Submit)
    assert [arrived.id.number for arrived in first.requests] == [0, 3]
    assert [message.request_id.number for message in unreadable] == [1, 2]
    assert "cannot be read: ValidationError" in unreadable[0].error
    assert "temperature" in unreadable[1].error
    (alone,) = MessageDecoder().decode(frames_of(Submit([bad])))
    assert isinstance(alone, Unreadable)
