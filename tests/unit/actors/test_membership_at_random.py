"""The supervisor's state machine under random deaths, late and doubled messages."""

import copy

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from random_examples import examples

from antiphon.actors.members import Kill, Limits, Start, State, Unusable
from antiphon.actors.membership import PAUSE_SECONDS, Membership
from antiphon.scheduler.request import Incarnation

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
TestMachine.settings = examples(150, stateful_step_count=40)
