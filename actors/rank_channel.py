"""From the leader of a replica to its other ranks: commands, in order, none missing.

Those of a decoder go out for every step (`actors/rank_wire.py`). A batch for an encoder's ranks is
mostly arrays, which travel as those of other messages do.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from antiphon.actors.address import Address, Host
from antiphon.actors.channel import Inbox, Sender
from antiphon.actors.frames import AddressEncoder
from antiphon.actors.messages import RankBatch
from antiphon.actors.rank_wire import RankDecoder, RankEncoder, RankMessage
from antiphon.actors.wire import MessageDecoder, MessageEncoder
from antiphon.decoder.rank_commands import RankCommand
from antiphon.encoder.rank_commands import EncodeBatch
from antiphon.kv.transports.mapped import Handle
from antiphon.runtime.ranks import RankError

AT_ONCE = 64  # commands that are handled before the loop comes round


class RankAddress(Address, frozen=True, array_like=True):
    """`arena`: of the rank's hidden states, where encoders of other processes may write there."""

    arena: Handle | None = None


class DecoderWire:
    """How a decoder's commands travel: encoded once for all receivers."""

    encoder, decoder = AddressEncoder, RankDecoder

    def __init__(self) -> None:
        self._encoder = RankEncoder()

    def message(self, epoch: int, number: int, command: RankCommand) -> Any:
        return self._encoder.encode(RankMessage(epoch, number, command))


class EncoderWire:
    """How an encoder's commands travel: their arrays lie in frames of their own."""

    encoder, decoder = MessageEncoder, MessageDecoder

    def message(self, epoch: int, number: int, command: EncodeBatch) -> Any:
        return RankBatch(epoch, number, command)


RankWire = DecoderWire | EncoderWire


class RankSenders:
    """Sends the leader's commands to all other ranks. For one thread at a time."""

    def __init__(self, addresses: Sequence[Address], node: str, epoch: int, wire: RankWire) -> None:
        """`node`, `epoch`: of the leader."""
        self._epoch, self._number, self._wire = epoch, 0, wire
        self._senders = [
            Sender(address, node, encoder=wire.encoder(address.token)) for address in addresses
        ]

    def __call__(self, command: Any) -> None:
        """Returns at once. Raises MessageError and PeerGone: the ranks no longer agree then."""
        message = self._wire.message(self._epoch, self._number, command)
        self._number += 1
        for sender in self._senders:
            sender.send(message)

    def close(self) -> None:
        for sender in self._senders:
            sender.close()


class Numbered(Protocol):
    """A command, which is number `number` (from 0) of the leader's life `epoch`."""

    @property
    def epoch(self) -> int: ...
    @property
    def number(self) -> int: ...
    @property
    def command(self) -> Any: ...


class CommandOrder:
    """Sees that a rank misses no command of the leader's life `epoch`."""

    def __init__(self, epoch: int) -> None:
        self._epoch, self._next = epoch, 0

    def check(self, message: Numbered) -> Any:
        """The command. Raises RankError for one of another life, and where one before it is
        missing."""
        if (message.epoch, message.number) != (self._epoch, self._next):
            raise RankError(
                f"command {message.number} of epoch {message.epoch} came where command "
                f"{self._next} of epoch {self._epoch} was due"
            )
        self._next += 1
        return message.command


class RankInbox:
    """Where a rank receives its leader's commands. In the thread of one worker, but for
    `address`."""

    def __init__(self, host: Host, epoch: int, wire: RankWire) -> None:
        self._inbox = Inbox(host, wire.decoder())
        self._order = CommandOrder(epoch)
        self.address = self._inbox.address

    def commands(self, timeout: float) -> Iterable[Any]:
        """Those that have come, after at most `timeout` seconds; see `CommandOrder`."""
        self._inbox.wait(int(timeout * 1000))
        return map(self._order.check, self._inbox.messages(AT_ONCE))

    def close(self) -> None:
        self._inbox.close()
