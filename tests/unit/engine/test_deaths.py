"""Requests go on after deaths: each ends once, with the undisturbed tokens, streams without a gap;
and a request that kills workers is given up alone."""

import asyncio
import gc
import itertools
import time
import weakref

import numpy as np
import pytest
from cluster_checks import check, first, idle, play
from unreliable_engine import Cluster

from antiphon.config.errors import RequestCancelled, RequestExpired, RequestFailed
from antiphon.scheduler.request import RequestState
from antiphon.scheduler.router import Route


@pytest.mark.parametrize("stream", [False, True])
def test_a_death_in_the_middle_of_a_request(stream: bool) -> None:
    """The other decoder goes on; a stream behind the tokens that its caller has."""

    async def scenario(cluster: Cluster) -> None:
        first(cluster).submit("a", 3, 14, stream)
        for _ in range(8):
            await cluster.turn()
            for node in list(cluster.nodes.values()):
                node.step()
            for _ in range(20):
                cluster.deliver(0)
        (opened, _) = first(cluster).opened[0]
        assert len(opened.token_ids) >= 3 or not stream
        cluster.kill(opened.worker.name)
        await cluster.run()
        assert opened.request.attempt == 1
        assert bool(opened.request.generated) is stream

    check(play(scenario))


@pytest.mark.parametrize("fault", ["twice", "lossy"])
def test_tokens_that_come_twice_or_are_lost(fault: str) -> None:
    """Callers of streams see each token once, in order."""

    async def scenario(cluster: Cluster) -> None:
        for number in range(3):
            first(cluster).submit(f"key{number}", 3, 14, stream=True)
        for number in range(30):
            is_lossy = fault == "lossy" and number % 5 == 4
            await cluster.round(fault == "twice", is_lossy, number)
        attempts = [opened.request.attempt for opened, _ in first(cluster).opened]
        assert (max(attempts) > 0) == (fault == "lossy")
        await cluster.run()

    check(play(scenario))


def test_requests_wait_while_no_decoder_lives_and_their_time_runs() -> None:
    async def scenario(cluster: Cluster) -> None:
        cluster.kill("decoder-0")
        cluster.kill("decoder-1")
        cluster.announce()
        while any(wire.messages for wire in cluster.wires.values()):
            cluster.deliver(0)
        first(cluster).submit("a", 3, 5, False)
        first(cluster).submit("b", 3, 5, False, timeout=0.05)
        began = time.monotonic()
        with pytest.raises(RequestExpired, match=r"after 0\.05 s"):
            await first(cluster).opened[1][0].future
        assert time.monotonic() - began < 10  # it would wait for ever
        assert first(cluster).opened[0][0].is_open
        del first(cluster).opened[1], first(cluster).shown[1]
        await cluster.run()

    check(play(scenario))


def test_without_any_worker_that_will_come_requests_fail_at_once() -> None:
    async def scenario(cluster: Cluster) -> None:
        for name in ("decoder-0", "decoder-1"):
            cluster.kill(name)
            del cluster.epochs[name]
        cluster.announce()
        while any(wire.messages for wire in cluster.wires.values()):
            cluster.deliver(0)
        first(cluster).submit("a", 3, 5, False)
        with pytest.raises(RequestFailed, match="no worker takes new requests"):
            await first(cluster).opened[0][0].future

    play(scenario)


@pytest.mark.parametrize("crowd", [0, 1, 30])
def test_a_poisonous_request_is_given_up_alone(crowd: int) -> None:
    async def scenario(cluster: Cluster) -> None:
        cluster.poisonous = {101}
        for number in range(crowd + 1):
            first(cluster).submit(f"key{number}", 3, 6, number % 2 == 1)
        await cluster.run()
        poison, _ = first(cluster).opened.pop(0)
        del first(cluster).shown[0]
        with pytest.raises(RequestFailed, match="workers died while they had it"):
            poison.future.result()
        assert cluster.deaths <= (2 if crowd == 0 else 4)

    check(play(scenario))


@pytest.mark.parametrize("crowd", [1, 2, 30])
@pytest.mark.parametrize("max_tokens", [1, 20])
@pytest.mark.parametrize("own_crowd", [0, 5])
def test_a_poisonous_request_of_one_frontend_harms_no_other_one(
    crowd: int, max_tokens: int, own_crowd: int
) -> None:
    """On one decoder, so that the innocent ones are there at every death."""

    async def scenario(cluster: Cluster) -> None:
        cluster.kill("decoder-1")
        del cluster.epochs["decoder-1"]
        cluster.announce()
        while any(wire.messages for wire in cluster.wires.values()):
            cluster.deliver(0)
        cluster.poisonous, cluster.deaths = {101}, 0
        poisoner, other = cluster.frontends.values()
        poisoner.submit("key0", 3, 6, False)
        for number in range(own_crowd):
            poisoner.submit(f"key{number}", 3, 6, number % 2 == 1)
        for number in range(crowd):
            other.submit(f"key{number}", 3, max_tokens, number % 2 == 0)
        await cluster.run()
        poison, _ = poisoner.opened.pop(0)
        del poisoner.shown[0]
        with pytest.raises(RequestFailed, match="workers died while they had it"):
            poison.future.result()
        assert cluster.deaths <= 5

    cluster = play(scenario, frontends=2)
    check(cluster)
    idle(cluster)


@pytest.mark.parametrize("crowd", [0, 1, 30])
def test_a_poisonous_input_is_given_up_alone(crowd: int) -> None:
    """It kills encoders; decoders see that."""

    async def scenario(cluster: Cluster) -> None:
        cluster.poison = {"bad"}
        first(cluster).submit("bad", 3, 6, False)
        for number in range(crowd):
            first(cluster).submit(f"key{number}", 3, 6, number % 2 == 1)
        await cluster.run()
        poison, _ = first(cluster).opened.pop(0)
        del first(cluster).shown[0]
        finished = poison.future.result()
        assert finished.state is RequestState.FAILED
        assert "encoders that worked on its input" in finished.error
        assert cluster.deaths <= (2 if crowd == 0 else 4)

    check(play(scenario))


def send_to(cluster: Cluster, decoders: list[str]) -> None:
    """Requests go to these decoders in turn, as long as they live."""
    router, turns = first(cluster).requests.router, itertools.cycle(decoders)
    route = router.route

    def chosen(key: str | None, num_tokens: int) -> Route | None:
        of_router, decoder = route(key, num_tokens), next(turns)
        if of_router is None or router.incarnation(decoder) is None:
            return of_router
        return of_router._replace(decoder=decoder)

    router.route = chosen  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("decoders", "keys"),
    [
        ("01", ["bad", "a"]),  # each decoder has one input at the encoder, the other's is poison
        ("10", ["a", "bad"]),
        ("01", ["bad", "bad"]),
        ("010", ["bad", "bad", "a"]),
        ("0111", ["bad", "a", "b", "c"]),
        ("01", ["bad", "bad", *"abcdefghijklmn"]),
    ],
)
@pytest.mark.parametrize("encoders", [1, 2])
def test_a_poisonous_input_harms_no_other_one_of_any_decoder(
    decoders: str, keys: list[str], encoders: int
) -> None:
    async def scenario(cluster: Cluster) -> None:
        if encoders == 1:
            cluster.kill("encoder-1")
            del cluster.epochs["encoder-1"]
        cluster.announce()
        while any(wire.messages for wire in cluster.wires.values()):
            cluster.deliver(0)
        cluster.poison, cluster.deaths = {"bad"}, 0
        send_to(cluster, [f"decoder-{number}" for number in decoders])
        for key in keys:
            first(cluster).submit(key, 3, 6, False)
        await cluster.run(seconds=400.0)
        assert cluster.deaths <= 8
        for number in reversed(range(keys.count("bad"))):
            position = [i for i, key in enumerate(keys) if key == "bad"][number]
            poison, _ = first(cluster).opened.pop(position)
            del first(cluster).shown[position]
            assert "encoders that worked on its input" in poison.future.result().error

    cluster = play(scenario)
    check(cluster)
    idle(cluster)


def test_a_cancelled_request_and_its_input_are_let_go_at_once() -> None:
    """While its worker hangs, and the caller still holds what `submit` returned."""

    async def scenario(cluster: Cluster) -> None:
        frontend = first(cluster)
        frontend.submit("a", 3, 6, False)
        await cluster.turn()  # sent, but no worker ever answers
        (opened, _) = frontend.opened[0]
        array = weakref.ref(opened.inputs[0].payload)
        assert array() is not None
        frontend.requests.cancel(opened)
        gc.collect()
        assert array() is None
        assert len(frontend.requests) == 0
        with pytest.raises(RequestCancelled):
            await opened.future
        await cluster.run()

    cluster = play(scenario)
    idle(cluster)


def test_a_hanging_worker_holds_no_caller() -> None:
    async def scenario(cluster: Cluster) -> None:
        frontend = first(cluster)
        for number in range(20):
            frontend.submit(f"key{number}", 3, 6, number % 2 == 1, timeout=0.1)
        await cluster.turn()
        began = time.monotonic()
        calls = (frontend.requests.wait(opened) for opened, _ in frontend.opened)
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert time.monotonic() - began < 10  # they would wait for ever
        assert all(isinstance(end, RequestExpired) for end in ends)
        assert len(frontend.requests) == 0

    play(scenario)


def test_arrays_of_inputs_are_kept_for_another_attempt() -> None:
    async def scenario(cluster: Cluster) -> None:
        first(cluster).submit("a", 3, 6, False)
        await cluster.turn()
        (opened, _) = first(cluster).opened[0]
        cluster.kill(opened.worker.name)
        cluster.announce()
        while any(wire.messages for wire in cluster.wires.values()):
            cluster.deliver(0)
        kept = first(cluster).requests.dispatcher.inputs.get("a")
        assert isinstance(kept, np.ndarray)
        await cluster.run()

    check(play(scenario))
