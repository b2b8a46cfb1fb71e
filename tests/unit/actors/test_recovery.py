"""What a supervisor that was started again makes of what others know of its engine."""

import pytest

from antiphon.actors.member_messages import Member as Told
from antiphon.actors.members import Announce, Limits, Start, State
from antiphon.actors.membership import Membership
from antiphon.actors.recovery import EPOCHS_OF_ONE_LIFE, recovered
from antiphon.scheduler.request import Incarnation

NOW = 100.0
ADDRESS = "where it receives"
NAMES = ("encoder-0", "decoder-0", "decoder-1")
LATER = Incarnation("decoder-1", EPOCHS_OF_ONE_LIFE + 2)  # the engine's own process started it too


def told(name: str, epoch: int = 1, **facts: object) -> Told:
    return Told(name, name.partition("-")[0], epoch, ADDRESS, **facts)  # type: ignore[arg-type]


def resumed(*members: Told, colocated: bool = False) -> Membership:
    names = [name.replace("decoder", "colocated") for name in NAMES] if colocated else NAMES
    outlive = [Incarnation(name, 1) for name in names] + [LATER]
    membership = Membership(Limits())
    membership.recover(*recovered(members, outlive, colocated, NOW))
    return membership


def test_first_processes_go_on_as_they_are() -> None:
    membership = resumed(told("encoder-0"), told("decoder-0", load={"open": 3.0}))
    assert membership.complete
    assert [member.state for member in membership.members.values()] == [State.READY] * 2
    assert membership.members["decoder-0"].load == {"open": 3.0}
    for tenth in range(45):
        membership.tick(NOW + tenth / 10)
    assert membership.take_actions() == [Announce()]
    membership.heartbeat(Incarnation("decoder-0", 1), {"open": 1.0}, b"", 0.0, NOW + 4.5)
    for tenth in range(45, 60):  # the encoder is not heard
        membership.tick(NOW + tenth / 10)
    assert membership.members["decoder-0"].state is State.READY
    assert membership.members["encoder-0"].state is State.ENDING


@pytest.mark.parametrize(
    "lost", [told("decoder-0", 2), told("decoder-0", alive=False), told("decoder-7")]
)
def test_others_start_again_above_every_epoch_that_was_used(lost: Told) -> None:
    membership = resumed(told("encoder-0"), lost)
    membership.take_actions()
    assert membership.members[lost.name].epoch == lost.epoch  # whose end frontends are told
    membership.tick(NOW)
    (start,) = [action for action in membership.take_actions() if isinstance(action, Start)]
    assert start.incarnation == Incarnation(lost.name, EPOCHS_OF_ONE_LIFE + 1)
    membership.scale("encoder", 2, NOW)  # nor may a new worker be taken for one that was drained
    (start,) = [action for action in membership.take_actions() if isinstance(action, Start)]
    assert start.incarnation == Incarnation("encoder-1", EPOCHS_OF_ONE_LIFE + 1)


def test_later_processes_of_the_engines_own_process_go_on_as_well() -> None:
    membership = resumed(told("encoder-0"), told(*LATER))
    assert membership.members["decoder-1"].state is State.READY
    assert membership.members["decoder-1"].incarnation == LATER


def test_each_supervisor_has_epochs_of_its_own() -> None:
    membership = resumed(told("encoder-0"), told("decoder-0", EPOCHS_OF_ONE_LIFE + 3))
    membership.tick(NOW)
    assert membership.members["decoder-0"].epoch == 2 * EPOCHS_OF_ONE_LIFE + 1


def test_a_worker_that_was_drained_is_drained_on() -> None:
    membership = resumed(told("encoder-0"), told("decoder-0"), told("decoder-1", draining=True))
    assert membership.members["decoder-1"].state is State.DRAINING
    assert [member.name for member in membership.of_role("decoder")] == ["decoder-0"]
    membership.tick(NOW + 1.5)  # nothing is open at it
    membership.gone(Incarnation("decoder-1", 1), "killed", NOW + 1.6)
    assert "decoder-1" not in membership.members


def test_a_colocated_process_is_one_member() -> None:
    membership = resumed(told("encoder-0"), told("decoder-0"), colocated=True)
    assert list(membership.members) == ["colocated-0"]
    assert membership.members["colocated-0"].state is State.READY
