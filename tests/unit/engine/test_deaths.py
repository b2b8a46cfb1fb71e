"""Requests go on after deaths: each ends once, with the undisturbed tokens, streams without a gap;
and a request that kills workers is given up alone."""

import asyncio
import gc
import time
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from unreliable_engine import Cluster, DecoderNode, Frontend

from antiphon.config.errors import RequestCancelled, RequestExpired, RequestFailed
from antiphon.scheduler import suspects
from antiphon.scheduler.request import RequestState

Scenario = Callable[[Cluster], Coroutine[Any, Any, None]]


def play(scenario: Scenario, frontends: int = 1) -> Cluster:
    async def run() -> Cluster:
        cluster = Cluster(frontends)
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
    """Decoders have nothing left once all that is on its way has come."""
    cluster.restart()
    cluster.announce()
    for _ in range(200):
        for node in cluster.nodes.values():
            node.step()
        while any(wire.messages for wire in cluster.wires.values()):
            cluster.deliver(0)
    for node in cluster.nodes.values():
        if isinstance(node, DecoderNode):
            scheduler = node.scheduler
            assert not scheduler.requests
            assert scheduler.pages.num_available == scheduler.pages.num_pages
            assert scheduler.encodes.tokens == 0
            assert not node.hidden
            assert scheduler.idle


KEYS, CHOICE = st.sampled_from("abcdef"), st.integers(0, 50)
WORKERS = st.sampled_from(["encoder-0", "encoder-1", "decoder-0", "decoder-1"])
ROUND = st.tuples(st.just("round"), st.booleans(), st.booleans(), CHOICE)
EVENTS = st.lists(
    st.one_of(
        # key, prompt tokens, max_tokens, stream, with a stop string
        st.tuples(
            st.just("submit"), CHOICE, KEYS, st.integers(1, 6), st.integers(1, 20), st.booleans(),
            st.booleans(),
        ),
        st.tuples(st.just("step"), WORKERS),
        ROUND, ROUND, ROUND, ROUND,
        st.tuples(st.just("deliver"), CHOICE, st.booleans()),
        st.tuples(st.just("deliver"), CHOICE, st.just(False)),
        st.tuples(st.just("turn")),
        st.tuples(st.just("lose"), CHOICE),
        st.tuples(st.just("kill"), WORKERS),
        st.tuples(st.just("restart"), WORKERS),
        st.tuples(st.just("announce")),
        st.tuples(st.just("cancel"), CHOICE),
    ),
    min_size=20,
    max_size=100,
)  # fmt: skip


@settings(max_examples=150, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(events=EVENTS)
def test_every_request_ends_once_with_the_undisturbed_tokens(events: list[Any]) -> None:
    """Nobody is given up: here deaths come at the worst moments, not from requests."""

    async def scenario(cluster: Cluster) -> None:
        for event in events:
            await act(cluster, *event)
        await cluster.run()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suspects, "KILLS", 10**6)
        cluster = play(scenario, frontends=2)
    check(cluster)
    idle(cluster)


async def act(cluster: Cluster, kind: str, *values: Any) -> None:
    frontends = list(cluster.frontends.values())
    match kind, values:
        case "submit", (choice, key, prompt, max_tokens, stream, stops):
            frontend = frontends[choice % len(frontends)]
            stop = (5 + choice % 40,) if stops else ()
            frontend.submit(key, prompt, max_tokens, stream, stop=stop)
        case "step", (worker,) if worker in cluster.nodes:
            cluster.nodes[worker].step()
        case "deliver", (choice, twice):
            cluster.deliver(choice, twice)
        case "round", (twice, lossy, choice):
            await cluster.round(twice, lossy, choice)
        case "turn", ():
            await cluster.turn()
        case "lose", (choice,):
            cluster.lose(choice)
        case "kill", (worker,):
            cluster.kill(worker)
        case "restart", (worker,) if worker not in cluster.nodes:
            cluster.start(worker)
        case "announce", ():
            cluster.announce()
        case "cancel", (choice,):
            frontend = frontends[choice % len(frontends)]
            if frontend.opened:
                frontend.requests.cancel(frontend.opened[choice % len(frontend.opened)][0])
    cluster.show()


def first(cluster: Cluster) -> Frontend:
    return next(iter(cluster.frontends.values()))


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
        assert time.monotonic() - began < 0.05 + 0.25
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
        assert time.monotonic() - began < 0.1 + 0.25
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
