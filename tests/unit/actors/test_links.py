"""Whom a worker can reach: those that the supervisor told of last, and frontends."""

from antiphon.actors.address import Address
from antiphon.actors.links import Links
from antiphon.actors.messages import Attach, Detach, Member, Members

ADDRESS = Address("tcp://127.0.0.1:1", "ipc:///nowhere", "another node", bytes(40), bytes(16))


def members(*names: str) -> Members:
    return Members([Member(name, name.split("-")[0], 0, ADDRESS) for name in names])


def test_members_that_left_the_list_are_forgotten_and_frontends_are_not() -> None:
    links = Links()
    links.handle(Attach("frontend", ADDRESS))
    links.handle(members("encoder-0", "encoder-1"))
    links.handle(members("encoder-0", "encoder-2"))  # after the pool has shrunk
    known = [n for n in ("encoder-0", "encoder-1", "encoder-2", "frontend") if links.is_apart(n)]
    assert known == ["encoder-0", "encoder-2", "frontend"]
    links.handle(Detach("frontend"))
    assert not links.is_apart("frontend")
    links.close()
