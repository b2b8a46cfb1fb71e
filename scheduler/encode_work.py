"""What the ledger of encoder work is made of: `EncodeLedger` tells its life."""

from dataclasses import dataclass, field
from typing import NamedTuple

from antiphon.scheduler.request import Incarnation, Media, Request, RequestId


class EncodeCommand(NamedTuple):
    """Asks the worker `encoder` for the hidden states of `media`."""

    media: Media
    encoder: str


class Withdrawal(NamedTuple):
    """Tells the worker `encoder` not to begin the work under `key`."""

    key: str
    encoder: str


@dataclass
class Work:
    """One input that an encoder was asked for, until its cross KV is about to be written."""

    num_tokens: int
    encoder: str
    epoch: int | None  # of its encoder; None: not known
    order: int  # of asking, over all encoders
    since: float  # when it was asked for, or when its encoder last answered earlier work
    waiters: dict[RequestId, Request] = field(default_factory=dict)
    arrived: bool = False
    withdrawn: bool = False  # a withdrawal was sent and is not confirmed

    def is_asked_of(self, sender: Incarnation | None) -> bool:
        """True also where the sender, or the life of the encoder, is not known."""
        if sender is None or self.epoch is None:
            return True
        return sender == (self.encoder, self.epoch)


@dataclass(frozen=True)
class Answer:
    """The latest sign of life of an encoder."""

    order: int = 0  # of the latest work that it answered
    time: float = 0.0
