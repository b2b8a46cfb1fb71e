"""Deaths, restarts, late, doubled and lost messages at random: each request ends once, with the
undisturbed tokens, streams without a gap."""

from typing import Any

import pytest
from cluster_checks import check, idle, play
from hypothesis import Phase, given
from hypothesis import strategies as st
from random_examples import examples
from unreliable_engine import Cluster

from antiphon.engine import flights
from antiphon.scheduler import suspects
from antiphon.scheduler.drafts import DraftLimits

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
        st.tuples(st.just("time"), st.sampled_from([0.5, 4.0, 20.0])),
        st.tuples(st.just("kill"), WORKERS),
        st.tuples(st.just("restart"), WORKERS),
        st.tuples(st.just("announce")),
        st.tuples(st.just("suspect"), st.sampled_from(["encoder-0", "encoder-1"])),
        st.tuples(st.just("cancel"), CHOICE),
    ),
    min_size=20,
    max_size=100,
)  # fmt: skip


@examples(100, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(events=EVENTS, drafts=st.sampled_from([None, DraftLimits(3, 4)]))
def test_every_request_ends_once_with_the_undisturbed_tokens(
    events: list[Any], drafts: DraftLimits | None
) -> None:
    """Nobody is given up: here deaths come at the worst moments, not from requests."""

    async def scenario(cluster: Cluster) -> None:
        for event in events:
            await act(cluster, *event)
        await cluster.run()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suspects, "KILLS", 10**6)
        patch.setattr(flights, "MAX_GAPS", 10**6)
        cluster = play(scenario, frontends=2, drafts=drafts)
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
        case "time", (seconds,):
            cluster.pass_time(seconds)
        case "kill", (worker,):
            cluster.kill(worker)
        case "restart", (worker,) if worker not in cluster.nodes:
            cluster.start(worker)
        case "announce", ():
            cluster.announce()
        case "suspect", (worker,):
            cluster.announce(suspect=worker)
        case "cancel", (choice,):
            frontend = frontends[choice % len(frontends)]
            if frontend.opened:
                frontend.requests.cancel(frontend.opened[choice % len(frontend.opened)][0])
    cluster.show()
