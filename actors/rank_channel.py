"""From the leader of a replica to its other ranks: commands, in order, none missing."""

from collections.abc import Iterable, Sequence

from antiphon.actors.address import Address, Host
from antiphon.actors.channel import Inbox, Sender
from antiphon.actors.rank_wire import AddressEncoder, RankDecoder, RankEncoder, RankMessage
from antiphon.decoder.rank_commands import RankCommand
from antiphon.kv.transports.mapped import Handle
from antiphon.runtime.ranks import RankError

AT_ONCE = 64  # commands that are handled before the loop comes round


class RankAddress(Address, frozen=True, array_like=True):
    """`arena`: of the rank's hidden states, where encoders of other processes may write there."""

    arena: Handle | None = None


class RankSenders:
    """Sends the leader's commands to all other ranks. For one thread at a time."""

    def __init__(self, addresses: Sequence[Address], node: str, epoch: int) -> None:
        """`node`, `epoch`: of the leader."""
        self._epoch, self._number = epoch, 0
        self._encoder = RankEncoder()
        self._senders = [
            Sender(address, node, encoder=AddressEncoder(address.token)) for address in addresses
        ]

    def __call__(self, command: RankCommand) -> None:
        """Returns at once. Raises MessageError and PeerGone: the ranks no longer agree then."""
        encoded = self._encoder.encode(RankMessage(self._epoch, self._number, command))
        self._number += 1
        for sender in self._senders:
            sender.send(encoded)

    def close(self) -> None:
        for sender in self._senders:
            sender.close()


class CommandOrder:
    """Sees that a rank misses no command of the leader's life `epoch`."""

    def __init__(self, epoch: int) -> None:
        self._epoch, self._next = epoch, 0

    def check(self, message: RankMessage) -> RankCommand:
        """Raises RankError for a command of another life, and where one before it is missing."""
        epoch, number, command = message
        if (epoch, number) != (self._epoch, self._next):
            raise RankError(
                f"command {number} of epoch {epoch} came where command {self._next} of epoch "
                f"{self._epoch} was due"
            )
        self._next += 1
        return command


class RankInbox:
    """Where a rank receives its leader's commands. In the thread of one worker, but for
    `address`."""

    def __init__(self, host: Host, epoch: int) -> None:
        self._inbox = Inbox(host, RankDecoder())
        self._order = CommandOrder(epoch)
        self.address = self._inbox.address

    def commands(self, timeout: float) -> Iterable[RankCommand]:
        """Those that have come, after at most `timeout` seconds; see `CommandOrder`."""
        self._inbox.wait(int(timeout * 1000))
        return map(self._order.check, self._inbox.messages(AT_ONCE))

    def close(self) -> None:
        self._inbox.close()
