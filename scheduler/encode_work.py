"""What the ledger of encoder work is made of: `EncodeLedger` tells its life."""

from collections.abc import Mapping
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

    media: Media
    encoder: str
    epoch: int | None  # of its encoder; None: not known
    order: int  # of asking, over all encoders
    since: float  # when it was asked for, or when its encoder last answered earlier work
    asked_at: float  # the last time
    waiters: dict[RequestId, Request] = field(default_factory=dict)
    arrived: bool = False
    is_written: bool = False  # it has arrived, and an encoder may write it once more
    withdrawn: bool = False  # a withdrawal was sent and is not confirmed

    def overdue_error(self, timeout: float) -> str:
        sent = f"{self.encoder} sent no hidden states within {timeout:g} s (encode_timeout)"
        return f"{sent}: its worker hangs, or all messages are lost"

    def is_asked_of(self, sender: Incarnation | None) -> bool:
        """True also where the sender, or the life of the encoder, is not known."""
        if sender is None or self.epoch is None:
            return True
        return sender == (self.encoder, self.epoch)


def by_lost_life(
    works: Mapping[str, Work], before: Mapping[str, int], epochs: Mapping[str, int]
) -> dict[tuple[str, int | None], list[str]]:
    """The keys of `works` that are lost with lives of encoders, by name and epoch:
    those of `before` that are not among `epochs`, and those that were not known and may
    have been others."""
    lost: dict[tuple[str, int | None], list[str]] = {
        (name, epoch): [] for name, epoch in before.items() if epochs.get(name) != epoch
    }
    for key, work in works.items():
        if not work.arrived and (work.epoch is None or epochs.get(work.encoder) != work.epoch):
            lost.setdefault((work.encoder, work.epoch), []).append(key)
    return lost


class _Answer(NamedTuple):
    """The latest sign of life of an encoder."""

    order: int = 0  # of the latest work that it answered
    time: float = 0.0


NO_ANSWER = _Answer()


class Answers:
    """The signs of life of encoders, by which work that is in line there tells from lost work.

    An encoder answers in the order in which it was asked, and may rightly have minutes
    of work queued. So the time of queued work starts anew whenever its encoder answers
    something that was asked for earlier; that of work which it has passed over does
    not.
    """

    def __init__(self) -> None:
        self._latest: dict[str, _Answer] = {}  # by encoder

    def note(self, work: Work, now: float) -> None:
        """Its encoder has answered it."""
        latest = self._latest.get(work.encoder, NO_ANSWER)
        self._latest[work.encoder] = _Answer(max(latest.order, work.order), now)

    def note_life(self, encoder: str, now: float) -> None:
        """It lives, but has answered no work: the order of its latest answer stays."""
        self._latest[encoder] = self._latest.get(encoder, NO_ANSWER)._replace(time=now)

    def forget(self, encoder: str) -> None:
        self._latest.pop(encoder, None)

    def silent_since(self, work: Work) -> float:
        latest = self._latest.get(work.encoder)
        if latest is not None and latest.order < work.order:
            work.since = max(work.since, latest.time)
        return work.since
