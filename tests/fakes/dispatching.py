"""What tests of the dispatcher send, and where it goes."""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np

from antiphon.actors.messages import Member, Message
from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.sampling import SamplingParams
from antiphon.inputs.prepared import EncoderInput
from antiphon.scheduler.request import Media, Request, RequestId
from antiphon.scheduler.router import Route

ROUTE = Route("encoder-0", "decoder-0")


class Sent:
    """Stands for `Workers`: keeps what was sent. `fails`: messages that cannot travel."""

    colocated = False

    def __init__(self) -> None:
        self.members: list[Member] = []
        self.messages: list[tuple[str, Message]] = []
        self.fails: Callable[[Message], bool] = lambda message: False
        self.introductions = 0

    def introduce(self) -> None:
        self.introductions += 1

    def send(self, worker: str, message: Message) -> None:
        if self.fails(message):
            raise TypeError("cannot travel")
        self.messages.append((worker, message))

    def take(self) -> list[tuple[str, Message]]:
        messages, self.messages = self.messages, []
        return messages

    @property
    def kinds(self) -> list[str]:
        return [type(message).__name__ for _, message in self.take()]


def request(number: int, *keys: str) -> Request:
    """`keys`: of its inputs; "k" if there are none."""
    media = tuple(Media(key, "audio", 1500) for key in keys or ("k",))
    prompt = np.array([1])
    return Request(RequestId("f", number), prompt, media, SamplingParams(), DecodingRules(), 8, 0)


def sound(key: str = "k") -> EncoderInput:
    """100,000 bytes: too much to be packed."""
    return EncoderInput(key, "audio", 1500, np.zeros(25_000, np.float32))


def text(key: str, *ids: int) -> EncoderInput:
    return EncoderInput(key, "text", len(ids), np.array(ids, np.int32))


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        asyncio.run(test(*arguments, **named))

    return run
