"""Requests that draft, and what comes between: deaths, stop strings, deadlines."""

import pytest
from cluster_checks import check, first, idle, play
from played_model import text_of, token_at
from played_workers import DecoderNode
from unreliable_engine import Cluster

from antiphon.scheduler.drafts import DraftLimits
from antiphon.scheduler.request import RequestState

DRAFTS = DraftLimits(3, 4)
PROMPT = 3  # tokens


def accepted(cluster: Cluster) -> int:
    """Drafts that held, in the decoders that live."""
    decoders = (node for node in cluster.nodes.values() if isinstance(node, DecoderNode))
    return sum(node.scheduler.counters["accepted_draft_tokens"] for node in decoders)


async def drafted(cluster: Cluster) -> None:
    """Until some drafts have held."""
    for number in range(20):
        await cluster.round(False, False, number)
        if accepted(cluster):
            return
    raise AssertionError("none held")


@pytest.mark.parametrize("stream", [False, True])
def test_a_death_in_the_middle(stream: bool) -> None:
    async def scenario(cluster: Cluster) -> None:
        first(cluster).submit("a", PROMPT, 14, stream)
        await drafted(cluster)
        (opened, wanted) = first(cluster).opened[0]
        assert opened.is_open
        assert not stream or 0 < len(opened.token_ids) < len(wanted)
        cluster.kill(opened.worker.name)
        await cluster.run()
        assert opened.request.attempt == 1
        assert accepted(cluster)

    cluster = play(scenario, drafts=DRAFTS)
    check(cluster)
    idle(cluster)


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_among_drafts_that_hold(stream: bool) -> None:
    """Wherever it comes: the text ends before it, and nothing of what was drafted behind it is
    shown."""

    async def scenario(cluster: Cluster) -> None:
        frontend = first(cluster)
        for place in range(1, 9):
            name = 100 + place  # of the cluster's next request
            stop = (token_at(name, PROMPT + place),)
            frontend.submit(f"key{place}", PROMPT, 14, stream, stop=stop)
        await cluster.run()
        for place, (opened, wanted) in enumerate(frontend.opened, 1):
            assert opened.text is not None
            if place < len(wanted) - 1:
                assert opened.text.stopped
                assert opened.text.text == text_of(wanted[:place])
        assert sum(opened.text.stopped for opened, _ in frontend.opened if opened.text) > 4
        assert accepted(cluster)

    check(play(scenario, drafts=DRAFTS))


@pytest.mark.parametrize("stream", [False, True])
def test_a_deadline_that_passes_amid_drafts(stream: bool) -> None:
    async def scenario(cluster: Cluster) -> None:
        frontend = first(cluster)
        frontend.submit("a", PROMPT, 14, stream, timeout=5.0)
        frontend.submit("b", PROMPT, 14, stream)
        await drafted(cluster)
        (late, tokens), (other, wanted) = frontend.opened
        cluster.pass_time(5.0)
        await cluster.run()
        assert late.future.result().state is RequestState.EXPIRED
        assert tokens[: len(late.token_ids)] == late.token_ids
        assert other.future.result().token_ids == wanted
        assert frontend.shown[1] == (wanted if stream else [])

    idle(play(scenario, drafts=DRAFTS))
