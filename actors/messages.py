"""The messages between frontends, decoder workers, encoder workers and the supervisor.

Each process has one inbox, and each worker one `handle(message)`, which tells messages apart with
`match`. The same objects travel within a process and, encoded by `actors/wire.py`, over ZeroMQ. A
message is encoded as a list: the name of its type (its tag), then its fields. A new one is added to
`Message` below. `HiddenStates` is defined in `antiphon.kv.handoff`; the messages about members have
a file of their own, which needs no torch.

Names: workers are called "encoder-0", "decoder-1"; frontends by a random name.
"""

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

import msgspec
import numpy as np

from antiphon.actors.member_messages import Attach as Attach
from antiphon.actors.member_messages import Detach as Detach
from antiphon.actors.member_messages import Heartbeat as Heartbeat
from antiphon.actors.member_messages import Member as Member
from antiphon.actors.member_messages import Members as Members
from antiphon.encoder.rank_commands import EncodeBatch
from antiphon.kv.handoff import HiddenStates, Place
from antiphon.kv.transports.mapped import ArenaExport
from antiphon.scheduler.outputs import StepOutput
from antiphon.scheduler.request import Incarnation, Request, RequestId

# ---------------------------------------------------------------------- frontend to decoder


class Submit(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """New requests, in their order of arrival."""

    requests: list[Request]


class Cancel(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """End a request as cancelled, unless it has ended."""

    request_id: RequestId


class Stop(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """End a request as done: its text met a stop string."""

    request_id: RequestId


class StillOpen(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Asks about requests of a frontend of which it has heard nothing for some seconds.

    `numbers`: of their ids. A decoder answers by `NotOpen` if it does not have some of them.
    """

    frontend: str
    numbers: list[int]


class Unreadable(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Stands for a request of a `Submit` that could not be decoded, in the process that received
    it."""

    request_id: RequestId
    error: str


# ---------------------------------------------------------------------- frontend and encoder


class Input(msgspec.Struct, frozen=True, eq=False, array_like=True, tag=True):
    """The input with this content key: int32 token ids [n] or float32 samples [n].

    Sent before an encoder is asked to encode it, and in answer to `NeedInput`.
    """

    frontend: str
    key: str
    array: np.ndarray


class Inputs(msgspec.Struct, frozen=True, eq=False, array_like=True, tag=True):
    """Many short inputs in one message, as `Input` has them.

    `packed`: all arrays, which have one dtype, one behind the other. `lengths`: of each.
    """

    frontend: str
    keys: list[str]
    lengths: list[int]
    packed: np.ndarray

    @classmethod
    def of(cls, frontend: str, inputs: Mapping[str, np.ndarray]) -> "Inputs":
        """`inputs`: arrays of one dtype, by key."""
        arrays = [*inputs.values()]
        return cls(frontend, [*inputs], [len(array) for array in arrays], np.concatenate(arrays))

    def unpacked(self) -> list[Input]:
        """Each with an array of its own, so that none holds the memory of all."""
        ends = np.cumsum(self.lengths).tolist()
        begins = [0, *ends[:-1]]
        return [
            Input(self.frontend, key, self.packed[begin:end].copy())
            for key, begin, end in zip(self.keys, begins, ends, strict=True)
        ]


class NeedInput(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """An encoder has jobs for inputs that it does not hold. Answered by `Input` or `InputGone`."""

    encoder: str
    keys: tuple[str, ...]


class InputGone(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """No open request of this frontend uses the inputs with these keys. An answer to `NeedInput`,
    and sent unasked to whom they were sent before."""

    frontend: str
    keys: tuple[str, ...]


# ---------------------------------------------------------------------- decoder to encoder


class EncodeJob(msgspec.Struct, frozen=True, array_like=True):
    """One input to encode.

    `num_tokens`: of the encoder's output. `decoder`: name of the worker that wants the hidden
    states. `frontends`: names of those that hold the input; at least one. `sent_ahead`: one of them
    has sent it to this encoder, where it may not have arrived yet. `place`: where the states belong
    in the decoder's arena; they go another way without it, and where that is not mapped. `pooled`:
    an embedding is wanted in place of hidden states. `trial`: encoders may have died of the input;
    it is encoded when no other such one is.

    A frontend may want hidden states, too: then `decoder` is its name.
    """

    key: str
    num_tokens: int
    decoder: str
    frontends: tuple[str, ...]
    sent_ahead: bool = True
    place: Place | None = None
    pooled: bool = False
    trial: bool = False


class Encode(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Each job is answered by `HiddenStates`, `StatesWritten`, `EncodeFailed` or, after `Withdraw`,
    `Withdrawn`. A job that the encoder has already is not done twice. `again`: nothing was heard of
    the jobs for some seconds; an answer may be on its way.

    `arena`: the one of the jobs' places. `epoch`: of the encoder that may write to them, -1 if they
    have none.
    """

    jobs: list[EncodeJob]
    again: bool = False
    arena: ArenaExport | None = None
    epoch: int = -1


class Withdraw(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A decoder no longer wants these keys.

    Answered by `Withdrawn`, but for jobs that have begun, which are answered as before. `tickets`:
    for each key, of the last place that this encoder was asked to write; 0 for none. `arena`: the
    one of these places.
    """

    decoder: str
    keys: tuple[str, ...]
    tickets: tuple[int, ...] = ()
    arena: str = ""


# ---------------------------------------------------------------------- encoder to decoder


class EncodeFailed(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The input of this key could not be encoded. `error`: a sentence for the user.

    `input_gone`: no frontend that the job named holds it any more; another one may. `ticket`,
    `arena`: of the place that it was to be written to. A decoder's next life has another arena, and
    counts tickets anew.
    """

    key: str
    error: str
    input_gone: bool = False
    sender: Incarnation | None = None  # of an encoder that died, it says nothing
    ticket: int = 0
    arena: str = ""


class Withdrawn(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The encoder has no job for these keys, or has one no longer, which had not begun. `tickets`,
    `arena`: as `Withdraw` had them; 0 for keys whose states may still land at their places."""

    keys: tuple[str, ...]
    sender: Incarnation | None = None  # of an encoder that died, it says nothing
    tickets: tuple[int, ...] = ()
    arena: str = ""


class StatesWritten(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The hidden states of these keys are in the arena of this name, at the places with these
    tickets."""

    arena: str
    keys: tuple[str, ...]
    tickets: tuple[int, ...]
    sender: Incarnation


class NotMapped(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The encoder writes nothing new to the arena of this name. `landing`: the keys of writes that
    may still land there. Comes again when some that were given up may not any more."""

    arena: str
    reason: str
    sender: Incarnation
    landing: tuple[str, ...] = ()


# ---------------------------------------------------------------------- worker to the others


class Output(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """What happened to one frontend's requests in a step of a decoder worker."""

    output: StepOutput


class NotOpen(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A decoder does not have these requests of a frontend: they, or their ends, were lost. Sent
    after all ends that it knows of."""

    numbers: list[int]
    sender: Incarnation


# ---------------------------------------------------------------------- among encoder ranks


class RankBatch(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A command, which is number `number` (from 0) of the leader's life `epoch`."""

    epoch: int
    number: int
    command: EncodeBatch


Command = Submit | Cancel | Stop | StillOpen
LinkMessage = Attach | Detach | Members
EncoderMessage = Encode | Withdraw | Input | Inputs | InputGone | LinkMessage
EncoderAnswer = HiddenStates | StatesWritten | NotMapped | EncodeFailed | Withdrawn
DecoderMessage = Command | Unreadable | EncoderAnswer | LinkMessage
FrontendMessage = Output | NotOpen | NeedInput | Members | HiddenStates | EncodeFailed | Withdrawn
Message = EncoderMessage | DecoderMessage | FrontendMessage | Heartbeat | RankBatch

Sent = TypeVar("Sent", contravariant=True)


class Peer(Protocol[Sent]):
    """A worker or frontend as another one sees it: in this process, or behind a `Sender`.

    `in_this_process`: hidden states may be sent before the device has computed them.
    """

    @property
    def in_this_process(self) -> bool: ...

    def send(self, message: Sent) -> None:
        """Returns at once; messages of one sender are handled in order."""


AnyPeer = Peer[Any]
