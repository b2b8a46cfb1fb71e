"""The messages between the engine, decoder workers and encoder workers.

Each worker has one inbox and one `handle(message)`, which tells them apart with `match`. The same
objects travel within a process, in Ray calls and over ZeroMQ. A decoder worker's outputs go back
to the engine as `antiphon.scheduler.request.StepOutput`.
"""

from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from antiphon.kv.handoff import HiddenStates
from antiphon.scheduler.request import Request, RequestId

# ---------------------------------------------------------------------- engine to decoder


@dataclass(frozen=True)
class Submit:
    """New requests, in their order of arrival."""

    requests: list[Request]


@dataclass(frozen=True)
class Cancel:
    """End a request as cancelled, unless it has ended."""

    request_id: RequestId


@dataclass(frozen=True)
class Stop:
    """End a request as done: its text met a stop string."""

    request_id: RequestId


# ---------------------------------------------------------------------- decoder to encoder


@dataclass(frozen=True)
class EncodeJob:
    """One input to encode.

    `payload`: the input, or a `Stored` reference to it in Ray's object store. `num_tokens`: of the
    encoder's output. `decoder`: name of the worker that wants the hidden states.
    """

    key: str
    num_tokens: int
    payload: Any
    decoder: str


@dataclass(frozen=True)
class Encode:
    """Each job is answered by `HiddenStates`, `EncodeFailed` or, after `Withdraw`, `Withdrawn`."""

    jobs: list[EncodeJob]


@dataclass(frozen=True)
class Withdraw:
    """A decoder no longer wants these keys.

    Answered by `Withdrawn` for jobs that had not begun; other jobs are answered as before.
    """

    decoder: str
    keys: tuple[str, ...]


# ---------------------------------------------------------------------- encoder to decoder


@dataclass(frozen=True)
class EncodeFailed:
    """The input of this key could not be encoded. `error`: a sentence for the user."""

    key: str
    error: str


@dataclass(frozen=True)
class Withdrawn:
    """These keys were withdrawn before their encoding began."""

    keys: tuple[str, ...]


Command = Submit | Cancel | Stop
EncoderMessage = Encode | Withdraw
DecoderMessage = Command | HiddenStates | EncodeFailed | Withdrawn

Message = TypeVar("Message", contravariant=True)


class Peer(Protocol[Message]):
    """A worker as another one sees it: in this process, or behind a Ray actor.

    `in_this_process`: hidden states may be sent before the device has computed them.
    """

    in_this_process: bool

    def send(self, message: Message) -> None:
        """Returns at once; messages of one sender are handled in order."""


EncoderPeer = Peer[EncoderMessage]
DecoderPeer = Peer[DecoderMessage]
