"""Answers of an encoder to decoders that it does not know yet."""

import logging
from typing import Any

import pytest
import torch

from antiphon.actors.links import Links
from antiphon.actors.messages import EncodeFailed
from antiphon.actors.undelivered import KEPT_SECONDS, MAX_BATCHES, Undelivered
from antiphon.kv.handoff import HiddenStates


class Decoder:
    """In another process."""

    in_this_process = False

    def __init__(self) -> None:
        self.received: list[Any] = []

    def send(self, message: Any) -> None:
        self.received.append(message)


def states(key: str) -> HiddenStates:
    return HiddenStates((key,), (1,), torch.zeros(1, 2))


def test_they_are_due_in_their_order_once_their_decoder_is_known() -> None:
    kept, known = Undelivered(), Links(local={"decoder-0": Decoder()})
    first, second, other = states("a"), EncodeFailed("b", "bad"), states("c")
    kept.add("decoder-0", first, 0.0)
    kept.add("decoder-1", other, 0.0)
    kept.add("decoder-0", second, 1.0)
    assert kept.due(Links(), 2.0) == []
    assert kept.due(known, 3.0) == [("decoder-0", first), ("decoder-0", second)]
    assert kept.due(known, 4.0) == []
    assert len(kept) == 1


def test_what_is_kept_is_bounded_and_no_drop_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    kept, known = Undelivered(), Links(local={"decoder-0": Decoder()})
    kept.add("decoder-0", EncodeFailed("z", "bad"), 0.0)  # small: it displaces nothing
    for number in range(MAX_BATCHES + 2):
        kept.add("decoder-0", states(str(number)), 0.0)
    assert len(kept) == MAX_BATCHES + 1
    assert caplog.text.count("an answer to decoder-0 is dropped") == 2
    keys = [message.keys[0] for _, message in kept.due(known, 1.0)[1:]]  # type: ignore[union-attr]
    assert keys == [str(number) for number in range(2, MAX_BATCHES + 2)]


def test_they_are_dropped_when_their_decoder_never_appears(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kept = Undelivered()
    kept.add("decoder-0", states("a"), 0.0)
    assert kept.due(Links(), KEPT_SECONDS) == []
    assert len(kept) == 1
    with caplog.at_level(logging.WARNING):
        assert kept.due(Links(), KEPT_SECONDS + 0.1) == []
    assert len(kept) == 0
    assert "decoder-0 is dropped: it was not heard of for 10 s" in caplog.text
