"""The supervisor's state machine: limits and delays one by one, then everything at random."""

import copy

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from antiphon.actors.membership import (
    DRAIN_SECONDS,
    PAUSE_SECONDS,
    QUIET_SECONDS,
    REMEDY,
    WINDOW_SECONDS,
    Announce,
    Kill,
    Limits,
    Membership,
    Start,
    State,
    Unusable,
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


NAMES = st.sampled_from(["encoder-0", "decoder-0", "decoder-1", "decoder-2"])


class Machine(RuleBasedStateMachine):
    """Real processes are a set; `membership` learns of them by messages that may be late, doubled
    or about an earlier incarnation."""

    @initialize(max_restarts=st.sampled_from([0, 1, 3, 100]), decoders=st.integers(1, 2))
    def start(self, max_restarts: int, decoders: int) -> None:
        self.now = 0.0
        self.membership = Membership(Limits(hang_timeout=3.0, max_restarts=max_restarts))
        self.processes: set[Incarnation] = set()
        self.hung: set[Incarnation] = set()
        self.ever: list[Incarnation] = []
        self.ended = False
        self.membership.scale("encoder", 1, self.now)
        self.membership.scale("decoder", decoders, self.now)
        self.carry_out()

    def carry_out(self) -> None:
        for action in self.membership.take_actions():
            match action:
                case Start(incarnation):
                    assert not self.ended, "a start after the engine's end"
                    assert incarnation.name not in {process.name for process in self.processes}
                    assert incarnation not in self.ever
                    self.processes.add(incarnation)
                    self.ever.append(incarnation)
                case Kill(incarnation):
                    self.processes.discard(incarnation)
                    self.hung.discard(incarnation)
                case Unusable():
                    assert not self.ended
                    self.ended = True

    def present(self, name: str) -> Incarnation | None:
        return next((process for process in self.processes if process.name == name), None)

    @rule(name=NAMES)
    def becomes_ready(self, name: str) -> None:
        if (process := self.present(name)) is not None:
            self.membership.ready(process, f"tcp://{process}", self.now)
            self.carry_out()

    @rule(name=NAMES)
    def dies(self, name: str) -> None:
        """The news of it may never come by itself: then its silence tells."""
        if (process := self.present(name)) is not None:
            self.processes.discard(process)

    @rule(name=NAMES)
    def hangs(self, name: str) -> None:
        if (process := self.present(name)) is not None:
            self.hung.add(process)

    @rule(name=NAMES)
    def fails(self, name: str) -> None:
        if (process := self.present(name)) is not None:
            self.membership.failed(process, "an illegal memory access", self.now)
            self.carry_out()

    @precondition(lambda self: self.ever)
    @rule(data=st.data())
    def is_reported_gone(self, data: st.DataObject) -> None:
        """Perhaps for the second time, or long after."""
        incarnation = data.draw(st.sampled_from(self.ever))
        if incarnation not in self.processes:
            self.membership.gone(incarnation, "it ended", self.now)
            self.carry_out()

    @precondition(lambda self: self.ever)
    @rule(data=st.data(), kind=st.sampled_from(["ready", "heartbeat", "failed", "gone"]))
    def an_old_message_changes_nothing(self, data: st.DataObject, kind: str) -> None:
        incarnation = data.draw(st.sampled_from(self.ever))
        member = self.membership.members.get(incarnation.name)
        if member is not None and member.epoch == incarnation.epoch:
            return
        before = copy.deepcopy(vars(self.membership))
        match kind:
            case "ready":
                self.membership.ready(incarnation, "tcp://old", self.now)
            case "heartbeat":
                self.membership.heartbeat(incarnation, {"open": 9}, b"", 99.0, self.now)
            case "failed":
                self.membership.failed(incarnation, "old", self.now)
            case "gone":
                self.membership.gone(incarnation, "old", self.now)
        assert vars(self.membership) == before

    @rule(role=st.sampled_from(["encoder", "decoder"]), count=st.integers(1, 3))
    def scales(self, role: str, count: int) -> None:
        self.membership.scale(role, count, self.now)
        self.carry_out()

    @rule(seconds=st.sampled_from([0.1, 0.5, PAUSE_SECONDS + 1.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.pulse()

    def pulse(self) -> None:
        for process in self.processes - self.hung:
            self.membership.heartbeat(process, {}, b"", 0.0, self.now)
        for process in self.processes & self.hung:
            self.membership.heartbeat(process, {}, b"", 3.5, self.now)
        self.membership.tick(self.now)
        self.carry_out()

    @rule()
    def all_deaths_are_answered(self) -> None:
        """Left alone, every member that stays is ready again, or the engine has ended."""
        for _ in range(2000):
            members = self.membership.members.values()
            if self.ended or all(
                member.state is State.READY and member.incarnation in self.processes - self.hung
                for member in members
            ):
                break
            for member in list(members):
                if member.state is State.STARTING and member.incarnation in self.processes:
                    self.hung.discard(member.incarnation)
                    self.membership.ready(member.incarnation, "tcp://there", self.now)
                elif member.state is State.ENDING or member.incarnation not in self.processes:
                    self.membership.gone(member.incarnation, "it ended", self.now)
            self.carry_out()
            self.now += 0.5
            self.pulse()
        else:
            raise AssertionError(f"still not ready: {self.membership.members}")
        if self.ended:
            assert not self.processes

    @invariant()
    def announced_addresses_are_of_running_members(self) -> None:
        if not hasattr(self, "membership"):
            return
        for member in self.membership.members.values():
            running = member.state in (State.READY, State.DRAINING)
            assert (member.address is not None) == running


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
