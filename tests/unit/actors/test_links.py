"""Whom a worker can reach: those that the supervisor told of last, and frontends."""

import torch

from antiphon.actors.address import Address
from antiphon.actors.links import Links
from antiphon.actors.messages import Attach, Detach, Member, Members
from antiphon.actors.outlets import Outlets
from antiphon.scheduler.request import Incarnation
from antiphon.scheduler.worker_names import encoder_beside

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


def test_an_encoder_forgets_the_ways_to_frontends_that_are_gone() -> None:
    """Whose encodes it answered."""
    links, own = Links(), Incarnation("encoder-0", 1)
    outlets = Outlets(own, torch.device("cpu"), links, lambda *_: None, lambda _: None)
    outlets._plain_to("frontend-0")
    links.handle(Attach("frontend-0", ADDRESS))
    for number in range(1, 5):  # gone, or not known yet
        outlets._plain_to(f"frontend-{number}")
    assert list(outlets._plain) == ["frontend-0", "frontend-4"]


def test_workers_beside_are_known_by_their_names() -> None:
    names = ["decoder-12", encoder_beside("decoder-12"), "frontend-0decoder"]
    links = Links(local=dict.fromkeys(names))  # type: ignore[arg-type]
    assert links.here("encoder") == ["encoder-12"]
    assert links.here("decoder") == ["decoder-12"]
