"""Plays scenarios on a cluster of plain objects, and checks what they left."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from played_workers import EncoderNode
from unreliable_engine import QUIET_SECONDS, ROUND_SECONDS, Cluster, Frontend

from antiphon.config.errors import RequestCancelled
from antiphon.scheduler.drafts import DraftLimits
from antiphon.scheduler.request import RequestState

IDLE_SECONDS = 20.0  # in which all that was lost is asked for again, or ends

Scenario = Callable[[Cluster], Coroutine[Any, Any, None]]


def play(scenario: Scenario, frontends: int = 1, drafts: DraftLimits | None = None) -> Cluster:
    async def run() -> Cluster:
        cluster = Cluster(frontends, drafts)
        await scenario(cluster)
        return cluster

    return asyncio.run(run())


def check(cluster: Cluster, cancelled: int = 0) -> None:
    """All ended, rightly; nothing is left."""
    for frontend in cluster.frontends.values():
        for (opened, wanted), shown in zip(frontend.opened, frontend.shown, strict=True):
            if opened.future.exception() is not None:
                assert isinstance(opened.future.exception(), RequestCancelled)
                continue
            finished = opened.future.result()
            assert finished.state is RequestState.DONE
            tokens = finished.token_ids
            if opened.text is not None and opened.text.stopped:
                tokens = opened.text.token_ids
                assert tokens == wanted[: len(tokens)]
            else:
                assert tokens == wanted
            if opened.is_stream:
                without_end = [token for token in tokens if token != 1]
                assert shown == without_end
        flights = frontend.requests.flights
        assert not [*flights._in_flight, *flights._waiting, *flights._on_trial]
        assert not len(frontend.requests.dispatcher.inputs)


def idle(cluster: Cluster) -> None:
    """Workers have nothing left once all that is on its way has come."""
    cluster.restart()
    cluster.announce()
    end, delivered = cluster.now + IDLE_SECONDS, True
    while cluster.now < end:
        cluster.pass_time(ROUND_SECONDS if delivered else QUIET_SECONDS)
        for node in cluster.nodes.values():
            node.step()
        delivered = False
        while any(wire.messages for wire in cluster.wires.values()):
            cluster.deliver(0)
            delivered = True
    for node in cluster.nodes.values():
        if isinstance(node, EncoderNode):
            assert not len(node.jobs)
            assert not node.jobs._lacking
            assert not node.jobs._begun
        else:
            scheduler = node.scheduler
            assert not scheduler.requests
            assert scheduler.pages.num_available == scheduler.pages.num_pages
            assert scheduler.encodes.tokens == 0
            assert all(key in scheduler.encodes.kept for key in node.hidden)
            assert (node.space.num_blocked, scheduler.encodes.blocked) == (0, 0)
            assert node.space.num_free == len(node.content) - scheduler.encodes.kept.tokens
            assert scheduler.idle


def first(cluster: Cluster) -> Frontend:
    return next(iter(cluster.frontends.values()))
