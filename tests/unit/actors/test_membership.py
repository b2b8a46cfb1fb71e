"""The supervisor's state machine: limits, delays, draining and silence, one by one."""

import pytest

from antiphon.actors.members import Announce, Kill, Limits, Start, State, Unusable
from antiphon.actors.membership import (
    DRAIN_SECONDS,
    QUIET_SECONDS,
    REMEDY,
    WINDOW_SECONDS,
    Membership,
    restart_delay,
)
from antiphon.scheduler.request import Incarnation

FIRST = Incarnation("decoder-0", 1)
SECOND = Incarnation("decoder-0", 2)


def running(decoders: int = 2, **limits: float) -> Membership:
    """With an encoder and this many decoders, all ready at time 0."""
    membership = Membership(Limits(**limits))  # type: ignore[arg-type]
    membership.scale("encoder", 1, 0.0)
    membership.scale("decoder", decoders, 0.0)
    for action in membership.take_actions():
        assert isinstance(action, Start)
        membership.ready(action.incarnation, f"tcp://{action.incarnation.name}", 0.0)
    membership.take_actions()
    return membership


def beat(membership: Membership, now: float, *silent: str, **load: int) -> None:
    """A heartbeat of every member but the silent ones, and a tick."""
    for member in list(membership.members.values()):
        if member.name not in silent:
            membership.heartbeat(member.incarnation, load, b"", 0.0, now)
    membership.tick(now)


def restarted(membership: Membership, now: float) -> list[Incarnation]:
    membership.tick(now)
    actions = membership.take_actions()
    return [action.incarnation for action in actions if isinstance(action, Start)]


def test_a_worker_whose_process_ended_starts_again_at_once_with_the_next_epoch() -> None:
    membership = running()
    membership.gone(FIRST, "killed by a signal", 1.0)
    assert membership.take_actions() == [Announce(), Start(SECOND, "decoder")]
    assert membership.members["decoder-0"].address is None


def test_a_silent_worker_is_killed_and_starts_again_when_its_end_was_seen() -> None:
    membership = running()
    for tenth in range(5, 20, 5):
        beat(membership, tenth / 10, "decoder-0")
    assert membership.take_actions() == []
    beat(membership, 2.1, "decoder-0")
    kill, announce = membership.take_actions()
    assert (kill, announce) == (Kill(FIRST, "no sign of life for 2.1 s"), Announce())
    assert restarted(membership, 3.0) == []
    membership.gone(FIRST, "killed", 3.0)
    assert membership.take_actions() == [Announce(), Start(SECOND, "decoder")]


def test_a_loop_that_stands_still_is_killed() -> None:
    membership = running(hang_timeout=2.0)
    membership.heartbeat(FIRST, {}, b"", 1.9, 0.5)
    assert membership.take_actions() == []
    membership.heartbeat(FIRST, {}, b"", 2.4, 1.0)
    assert membership.take_actions()[0] == Kill(FIRST, "its loop has stood still for 2.4 s")


def test_nobody_dies_of_the_supervisors_own_pause() -> None:
    membership = running()
    beat(membership, 0.5)
    beat(membership, 60.0, "decoder-0")  # everybody else's heartbeat was in the inbox already
    assert membership.take_actions() == []
    for tenth in range(6002, 6220, 2):
        beat(membership, tenth / 100, "decoder-0")
    assert isinstance(membership.take_actions()[0], Kill)


def test_no_start_and_no_drained_worker_ends_in_the_supervisors_own_pause() -> None:
    membership = running()
    membership.gone(FIRST, "killed", 0.0)
    membership.scale("decoder", 1, 0.0)  # decoder-1 is drained
    membership.take_actions()
    beat(membership, 0.5, open=1)
    membership.tick(400.0)  # its heartbeats and the news of the start come behind this call
    assert membership.take_actions() == []
    beat(membership, 400.1, open=1)
    membership.ready(SECOND, "tcp://again", 400.1)
    assert membership.take_actions() == [Announce()]


def test_a_start_that_takes_too_long_is_a_death() -> None:
    membership = running(startup_timeout=10.0)
    membership.gone(FIRST, "killed", 1.0)
    membership.take_actions()
    beat(membership, 10.9)
    assert membership.take_actions() == []
    beat(membership, 11.1)
    kill, announce = membership.take_actions()
    assert (kill, announce) == (Kill(SECOND, f"it was not ready within 10 s: {REMEDY}"), Announce())


def test_restarts_wait_longer_each_time_and_their_number_is_limited() -> None:
    membership = running(max_restarts=3)
    now, waits = 0.0, []
    for epoch in range(1, 4):
        membership.gone(Incarnation("decoder-0", epoch), "killed", now)
        membership.take_actions()
        waits.append(membership.members["decoder-0"].restart_at - now)
        now = membership.members["decoder-0"].restart_at + 0.5
        membership.tick(now)
        membership.ready(Incarnation("decoder-0", epoch + 1), "tcp://again", now)
    assert waits == [restart_delay(count) for count in (1, 2, 3)] == [0.0, 1.0, 2.0]
    membership.gone(Incarnation("decoder-0", 4), "killed", now)
    assert set(membership.members) == {"encoder-0", "decoder-1"}  # the engine goes on without it
    assert membership.unusable is None


def test_deaths_of_long_ago_are_forgiven() -> None:
    membership = running(max_restarts=1)
    for epoch in range(1, 5):
        now = epoch * (WINDOW_SECONDS + 1)
        membership.gone(Incarnation("decoder-0", epoch), "killed", now)
        membership.ready(Incarnation("decoder-0", epoch + 1), "tcp://again", now)
    assert membership.unusable is None
    assert membership.members["decoder-0"].state is State.READY


def starts_until_given_up(membership: Membership, seconds: float, reason: str) -> int:
    """How often decoder-0 is started if it dies once and every start fails after `seconds`. Without
    a `reason` nothing is heard of a start: its process was never placed."""
    membership.gone(FIRST, "killed", 0.0)
    starts, now = 0, 0.0
    while (member := membership.members.get("decoder-0")) is not None:
        for action in membership.take_actions():
            if isinstance(action, Start):
                starts += 1
            elif isinstance(action, Kill):
                membership.gone(action.incarnation, "killed", now)
        if reason and member.state is State.STARTING and now - member.since >= seconds:
            membership.failed(member.incarnation, reason, now)
        now += 1.0
        beat(membership, now)
        assert now < 10_000.0, "it is started for ever"
    return starts


SLOW_FAILURES = pytest.mark.parametrize(
    ("seconds", "reason"), [(300.0, ""), (130.0, "no memory"), (700.0, "no memory")]
)


@SLOW_FAILURES
def test_a_worker_whose_starts_all_fail_slowly_is_given_up(seconds: float, reason: str) -> None:
    """No ten minutes see more than `max_restarts` of these deaths."""
    membership = running(decoders=2, max_restarts=5, startup_timeout=max(300.0, seconds + 1))
    assert starts_until_given_up(membership, seconds, reason) in (5, 6)
    assert set(membership.members) == {"encoder-0", "decoder-1"}
    assert membership.unusable is None


@SLOW_FAILURES
def test_the_engine_ends_if_its_last_decoder_never_gets_ready(seconds: float, reason: str) -> None:
    membership = running(decoders=1, max_restarts=5, startup_timeout=max(300.0, seconds + 1))
    starts_until_given_up(membership, seconds, reason)
    assert membership.unusable is not None
    assert "times in a row without getting ready (max_restarts=5)" in membership.unusable


def test_a_start_that_succeeds_forgives_the_failed_ones_before() -> None:
    membership = running(max_restarts=2)
    for number in range(6):
        epoch, now = number + 1, number * (WINDOW_SECONDS + 1)
        membership.gone(Incarnation("decoder-0", epoch), "killed", now)
        if number % 2:
            membership.ready(Incarnation("decoder-0", epoch + 1), "tcp://again", now)
    assert membership.members["decoder-0"].state is State.READY


def test_starts_that_were_not_waited_for_are_no_failures() -> None:
    membership = running(decoders=1, max_restarts=1)
    for epoch in range(1, 6):
        membership.scale("decoder", 2, 0.0)
        membership.scale("decoder", 1, 0.0)
        membership.gone(Incarnation("decoder-1", epoch), "killed", 0.0)
    membership.scale("decoder", 2, 0.0)
    membership.failed(Incarnation("decoder-1", 6), "no memory", 1.0)
    assert membership.members["decoder-1"].state is State.ENDING
    assert not membership.members["decoder-1"].removing


def test_the_engine_ends_with_the_last_worker_of_a_half() -> None:
    membership = running(decoders=1, max_restarts=0)
    membership.gone(FIRST, "a segmentation fault", 1.0)
    unusable, kill = membership.take_actions()
    assert isinstance(unusable, Unusable)
    assert "decoder-0 (epoch 1) ended: a segmentation fault" in unusable.reason
    assert "max_restarts=0" in unusable.reason
    assert isinstance(kill, Kill)
    assert kill.incarnation.name == "encoder-0"
    membership.gone(Incarnation("encoder-0", 1), "killed", 2.0)
    membership.tick(100.0)
    assert membership.take_actions() == []


def test_a_worker_that_cannot_start_at_first_ends_the_engine() -> None:
    membership = Membership(Limits())
    membership.scale("decoder", 2, 0.0)
    membership.take_actions()
    membership.ready(Incarnation("decoder-1", 1), "tcp://there", 1.0)
    membership.failed(FIRST, "no memory", 1.5)
    assert membership.unusable == "decoder-0 (epoch 1) ended: no memory"


def test_growing_starts_members_and_shrinking_drains_the_last_ones() -> None:
    membership = running(decoders=1)
    membership.scale("decoder", 2, 1.0)
    new = Incarnation("decoder-1", 1)
    assert membership.take_actions() == [Start(new, "decoder")]
    membership.ready(new, "tcp://new", 1.0)
    membership.take_actions()
    membership.scale("decoder", 1, 2.0)
    assert membership.take_actions() == [Announce()]
    assert membership.members["decoder-1"].state is State.DRAINING
    for half in range(5, 20):
        beat(membership, half / 2, open=3)
    assert membership.take_actions() == []
    beat(membership, 10.0)
    beat(membership, 9.5 + QUIET_SECONDS + 0.1)
    assert membership.take_actions()[0] == Kill(new, "it has no requests left")
    membership.gone(new, "killed", 12.0)
    assert set(membership.members) == {"encoder-0", "decoder-0"}
    assert restarted(membership, 100.0) == []


def test_a_drained_worker_that_is_never_empty_ends_after_its_grace() -> None:
    membership = running(decoders=2)
    membership.scale("decoder", 1, 0.0)
    membership.take_actions()
    for second in range(1, int(DRAIN_SECONDS) + 1):
        beat(membership, float(second), open=1)
    assert membership.take_actions() == []
    beat(membership, DRAIN_SECONDS + 0.5, open=1)
    assert isinstance(membership.take_actions()[0], Kill)


def test_a_name_that_is_used_again_goes_on_counting_epochs() -> None:
    membership = running(decoders=2)
    membership.scale("decoder", 1, 0.0)
    membership.gone(Incarnation("decoder-1", 1), "ended", 1.0)
    membership.take_actions()
    membership.scale("decoder", 2, 2.0)
    assert membership.take_actions() == [Start(Incarnation("decoder-1", 2), "decoder")]


def test_heartbeats_of_an_earlier_incarnation_do_not_keep_the_next_one_alive() -> None:
    membership = running()
    membership.gone(FIRST, "killed", 0.0)
    membership.ready(SECOND, "tcp://again", 0.0)
    membership.take_actions()
    for tenth in range(1, 25):
        for member in ("encoder-0", "decoder-1"):
            membership.heartbeat(Incarnation(member, 1), {}, b"", 0.0, tenth / 10)
        membership.heartbeat(FIRST, {"open": 1}, b"", 0.0, tenth / 10)
        membership.tick(tenth / 10)
    assert [action.incarnation for action in membership.take_actions()[:1]] == [SECOND]  # type: ignore[union-attr]


@pytest.mark.parametrize("deaths", range(1, 20))
def test_the_delay_grows_and_is_bounded(deaths: int) -> None:
    assert restart_delay(deaths) <= restart_delay(deaths + 1) <= 30.0


@pytest.mark.parametrize("silent", [False, True])
def test_what_a_worker_said_last_is_known_after_its_restart(silent: bool) -> None:
    membership = running()
    beat(membership, 1.0, open=3, senders=2)
    if silent:
        membership.tick(4.0)
        membership.gone(FIRST, "killed", 4.1)
    else:
        membership.gone(FIRST, "killed", 1.1)
    member = membership.members["decoder-0"]
    assert (member.incarnation, member.load) == (SECOND, {})
    assert member.last_load == {"open": 3, "senders": 2}
