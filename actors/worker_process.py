"""The Ray actor around one worker: a thin shell, so that starting it elsewhere needs no torch.

Ray runs its methods one after the other, except `watch`, which waits in a thread of its own.
"""

import os
import threading
from typing import TYPE_CHECKING, Any

import ray

from antiphon.actors.processes import Spot, birth
from antiphon.scheduler.request import Incarnation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from antiphon.actors.address import Address
    from antiphon.actors.base_actor import Followers, WorkerActor
    from antiphon.actors.messages import Detach, Member, Members
    from antiphon.actors.pulse import Pulse
    from antiphon.config.decoding_rules import TimestampRules
    from antiphon.config.options import EngineConfig
    from antiphon.config.parallel import RankSpec
    from antiphon.families.checkpoint import ModelConfig
    from antiphon.runtime.joining import StoreAddress
    from antiphon.runtime.ranks import Ranks


LEAVE_SECONDS = 1.0


class WorkerProcess:
    """`load`, then `connect`; from then on messages come over the channel."""

    actor: "WorkerActor"
    _ranks: "Ranks | None"  # of a replica of several
    _pulse: "Pulse"

    def spot(self) -> Spot:
        return Spot(ray.get_runtime_context().get_node_id(), os.getpid(), birth(os.getpid()))

    def open_store(self) -> "StoreAddress":
        """Where the ranks of its replica find each other, for the life of this process."""
        from antiphon.runtime.joining import open_store

        self._store, address = open_store(ray.util.get_node_ip_address())
        return address

    def load(
        self,
        role: str,
        incarnation: Incarnation,
        model: "ModelConfig",
        config: "EngineConfig",
        rules: "TimestampRules | None",
        gpu_share: float,
        spec: "RankSpec | None" = None,
        store: "StoreAddress | None" = None,
    ) -> dict[str, Any]:
        """Loads the weights of this role, or one rank's part of them. Returns the `info` of its
        halves; raises what the workers raise.

        `spec`, `store`: of a replica of several ranks, all of which load at once.
        """
        self._incarnation, self._spec = incarnation, spec
        ranks = self._ranks = None if spec is None else _joined(spec, store, model, config)
        if ranks is not None and not ranks.is_leader:
            from antiphon.actors.follower_actor import FollowerActor

            self.actor = follower = FollowerActor()
            assert spec is not None
            return follower.load(role, model, config, rules, ranks, spec.timeout, gpu_share)
        if role == "encoder":
            from antiphon.actors.encoder_actor import EncoderActor

            self.actor = encoder = EncoderActor()
            return encoder.load(incarnation, model, config, gpu_share, ranks)
        if role == "decoder":
            from antiphon.actors.decoder_actor import DecoderActor

            self.actor = decoder = DecoderActor()
            return decoder.load(incarnation, model, config, rules, gpu_share, ranks)
        from antiphon.actors.colocated_actor import ColocatedActor

        self.actor = decoder = ColocatedActor()
        name = incarnation.name.replace("colocated", "decoder")
        own = Incarnation(name, incarnation.epoch)
        return decoder.load(own, model, config, rules, gpu_share, ranks)

    def _limit_waiting(self) -> None:
        """All ranks have loaded."""
        if self._ranks is not None and self._spec is not None:
            from antiphon.runtime.joining import limit_waiting

            limit_waiting(self._ranks, self._spec)

    def follow(self) -> "Mapping[str, Address]":
        """Starts a rank that is not the leader. Returns where it takes commands, by half."""
        from antiphon.actors.follower_actor import FollowerActor

        self._limit_waiting()
        assert isinstance(self.actor, FollowerActor)
        addresses = self.actor.listen(self._incarnation.epoch)
        self.actor.start()
        return addresses

    def connect(
        self, members: list["Member"], supervisor: "Address", followers: "Followers"
    ) -> "Address":
        """Starts the worker and its heartbeat. Returns where it receives messages. `followers`:
        where the other ranks of its replica take commands."""
        from antiphon.actors.base_actor import LeaderActor

        self._limit_waiting()
        assert isinstance(self.actor, LeaderActor)
        address = self.actor.listen()
        self.actor.connect(members, followers)
        self._start_pulse(supervisor)
        return address

    def _start_pulse(self, supervisor: "Address") -> None:
        from antiphon.actors.pulse import Pulse, WorkerReport

        report = WorkerReport(self.actor)
        self._pulse = Pulse(self._incarnation, supervisor, report, self.actor.news)
        self._pulse.start()

    def supervise(self, supervisor: "Address") -> list[str]:
        """Sends its heartbeats to a supervisor that was started again. Returns the names of the
        frontends that it serves."""
        self._pulse.close()
        self._start_pulse(supervisor)
        return self.actor.frontends()

    def update(self, message: "Members | Detach") -> None:
        """Tells the worker who the members are now, or that a frontend is gone."""
        self.actor.receive(message)

    def watch(self) -> str:
        """As `WorkerActor.watch`; returns the sentence that tells why it ended."""
        try:
            self.actor.watch()
        finally:
            self._leave()
        return "it stopped"

    def _leave(self) -> None:
        """Ends waiting for this rank and by it. Where a device hangs that may take for ever; the
        process will be killed, and what ended it is to be told before."""
        if self._ranks is not None:
            leaving = threading.Thread(target=self._ranks.close, daemon=True)
            leaving.start()
            leaving.join(LEAVE_SECONDS)

    def stats(self) -> dict[str, int]:
        return self.actor.stats()


def _joined(
    spec: "RankSpec", store: "StoreAddress | None", model: "ModelConfig", config: "EngineConfig"
) -> "Ranks":
    from antiphon.runtime.device import Target
    from antiphon.runtime.joining import join

    assert store is not None
    device = Target.resolve(config.model, model.raw, model.family).device
    return join(spec, store, ray.util.get_node_ip_address(), device)
