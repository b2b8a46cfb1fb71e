"""The Ray actor around one worker: a thin shell, so that starting it elsewhere needs no torch.

Ray runs its methods one after the other, except `watch`, which waits in a thread of its own.
"""

import os
from functools import partial
from typing import TYPE_CHECKING, Any

import ray

from antiphon.actors.processes import Spot, birth
from antiphon.scheduler.request import Incarnation

if TYPE_CHECKING:
    from antiphon.actors.address import Address
    from antiphon.actors.base_actor import WorkerActor
    from antiphon.actors.messages import Detach, Member, Members
    from antiphon.config.decoding_rules import TimestampRules
    from antiphon.config.options import EngineConfig
    from antiphon.families.checkpoint import ModelConfig


class WorkerProcess:
    """`load`, then `connect`; from then on messages come over the channel."""

    actor: "WorkerActor"

    def spot(self) -> Spot:
        return Spot(ray.get_runtime_context().get_node_id(), os.getpid(), birth(os.getpid()))

    def load(
        self,
        role: str,
        incarnation: Incarnation,
        model: "ModelConfig",
        config: "EngineConfig",
        rules: "TimestampRules | None",
        gpu_share: float,
    ) -> dict[str, Any]:
        """Loads the weights of this role. Returns the `info` of its halves; raises what the workers
        raise."""
        self._incarnation = incarnation
        if role == "encoder":
            from antiphon.actors.encoder_actor import EncoderActor

            self.actor = encoder = EncoderActor()
            return encoder.load(incarnation, model, config, gpu_share)
        if role == "decoder":
            from antiphon.actors.decoder_actor import DecoderActor

            self.actor = decoder = DecoderActor()
            return decoder.load(incarnation, model, config, rules, gpu_share)
        from antiphon.actors.colocated_actor import ColocatedActor

        self.actor = decoder = ColocatedActor()
        name = incarnation.name.replace("colocated", "decoder")
        own = Incarnation(name, incarnation.epoch)
        return decoder.load(own, model, config, rules, gpu_share)

    def connect(self, members: list["Member"], supervisor: "Address") -> "Address":
        """Starts the worker and its heartbeat. Returns where it receives messages."""
        from antiphon.actors.pulse import Pulse, worker_report

        address = self.actor.listen()
        self.actor.connect(members)
        self._pulse = Pulse(
            self._incarnation, supervisor, partial(worker_report, self.actor), self.actor.news
        )
        self._pulse.start()
        return address

    def update(self, message: "Members | Detach") -> None:
        """Tells the worker who the members are now, or that a frontend is gone."""
        self.actor.receive(message)

    def watch(self) -> str:
        """As `WorkerActor.watch`; returns the sentence that tells why it ended."""
        self.actor.watch()
        return "it stopped"

    def stats(self) -> dict[str, int]:
        return self.actor.stats()
