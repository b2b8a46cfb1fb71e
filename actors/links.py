"""Whom a worker sends to: other workers and frontends, by name."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from antiphon.actors.address import Address
from antiphon.actors.channel import PeerGone, Sender
from antiphon.actors.messages import (
    AnyPeer,
    Attach,
    Detach,
    LinkMessage,
    Members,
)
from antiphon.scheduler.worker_names import role_of

logger = logging.getLogger(__name__)


@dataclass
class Links:
    """For the thread of one worker, which learns of the others by messages.

    `node`: of this process; "" where nothing leaves it. `local`: peers in this process, by name.
    """

    node: str = ""
    local: Mapping[str, AnyPeer] = field(default_factory=dict)
    _addresses: dict[str, Address] = field(default_factory=dict)
    _senders: dict[str, Sender] = field(default_factory=dict)
    _members: set[str] = field(default_factory=set)  # as the supervisor told last
    frontends: set[str] = field(default_factory=set)  # other threads may read it

    def handle(self, message: LinkMessage) -> None:
        match message:
            case Attach(frontend, address):
                self._set(frontend, address)
                self.frontends.add(frontend)
            case Detach(frontend):
                self._forget(frontend)
                self.frontends.discard(frontend)
            case Members(members):
                names = {member.name for member in members}
                for name in self._members - names:  # it has left for good
                    self._forget(name)
                self._members = names
                for member in members:
                    if not member.alive:
                        self._forget(member.name)
                    elif member.address is not None:
                        self._set(member.name, member.address)

    def peer(self, name: str) -> AnyPeer | None:
        """None for a peer that has not attached or is gone."""
        if (peer := self.local.get(name)) is not None:
            return peer
        if name not in self._senders and (address := self._addresses.get(name)) is not None:
            self._senders[name] = Sender(address, self.node)
        return self._senders.get(name)

    def here(self, role: str) -> list[str]:
        """Names of the workers of `role` in this process."""
        return [name for name in self.local if role_of(name) == role]

    def knows(self, name: str) -> bool:
        return name in self._addresses or name in self.local

    def is_apart(self, name: str) -> bool:
        """True for a peer in another process."""
        return name in self._addresses and name not in self.local

    def is_near(self, name: str) -> bool:
        """True for a peer in another process of this node."""
        return name in self._addresses and self._addresses[name].is_near(self.node)

    def send(self, name: str, message: Any) -> bool:
        """False if the message went nowhere: the peer has not attached or is gone. Raises
        MessageError for a message that cannot travel."""
        peer = self.peer(name)
        if peer is None:
            return False
        try:
            peer.send(message)
        except PeerGone as error:
            logger.error("%s is taken for dead: %s", name, error)
            self._forget(name)
            return False
        return True

    def _set(self, name: str, address: Address) -> None:
        if self._addresses.get(name) != address:
            self._forget(name)
            self._addresses[name] = address

    def _forget(self, name: str) -> None:
        self._addresses.pop(name, None)
        if (sender := self._senders.pop(name, None)) is not None:
            sender.close()

    def close(self) -> None:
        for name in list(self._addresses):
            self._forget(name)
