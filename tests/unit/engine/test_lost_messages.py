"""Messages lost between processes that live: what was lost is asked for once more, or ends."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from cluster_checks import check, first, idle, play
from hypothesis import given
from hypothesis import strategies as st
from played_workers import DecoderNode
from random_examples import examples
from unreliable_engine import Cluster

from antiphon.actors.messages import (
    Encode,
    Input,
    InputGone,
    NeedInput,
    NotOpen,
    Output,
    StatesWritten,
    StillOpen,
    Stop,
    Submit,
    Withdraw,
    Withdrawn,
)
from antiphon.config.errors import RequestFailed
from antiphon.engine import flights
from antiphon.engine.flights import CHECK_SECONDS, MAX_GAPS
from antiphon.scheduler.encodes import ASK_AGAIN_SECONDS

Kind = Callable[[Any], bool]
NOTICED_SECONDS = ASK_AGAIN_SECONDS + 2 * CHECK_SECONDS  # one loss, of whatever kind


def is_encoded(message: Any) -> bool:
    return isinstance(message, StatesWritten)


def kind(cls: type) -> Kind:
    return lambda message: isinstance(message, cls)


KINDS: dict[str, Kind] = {
    "submit": kind(Submit),
    "output": kind(Output),
    "end": lambda message: isinstance(message, Output) and bool(message.output.finished),
    "stop": kind(Stop),
    "input": kind(Input),
    "need input": kind(NeedInput),
    "encode": kind(Encode),
    "encoded": is_encoded,
}


def losing(cluster: Cluster, is_lost: Kind, times: float) -> None:
    """The next messages of this kind are lost."""
    send, lost = cluster.send, 0

    def lossy(sender: Any, receiver: str, message: Any) -> None:
        nonlocal lost
        if lost < times and is_lost(message):
            lost += 1
            cluster.lost += 1
        else:
            send(sender, receiver, message)

    cluster.send = lossy  # type: ignore[method-assign]


@pytest.mark.parametrize("is_lost", KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_lost_once_is_noticed_within_seconds(is_lost: Kind, stream: bool) -> None:
    async def scenario(cluster: Cluster) -> None:
        losing(cluster, is_lost, 1)
        first(cluster).submit("a", 3, 12, stream, stop=(4,))
        first(cluster).submit("b", 3, 12, stream)
        await cluster.run(NOTICED_SECONDS + 3.0)

    cluster = play(scenario)
    check(cluster)
    idle(cluster)


def test_nothing_is_asked_for_while_all_goes_on() -> None:
    asked: list[Any] = []

    async def scenario(cluster: Cluster) -> None:
        losing(cluster, lambda message: isinstance(message, StillOpen) and asked.append(message), 1)
        for number in range(12):
            first(cluster).submit("abc"[number % 3], 3, 20, stream=True)
        await cluster.run()
        counters = [n.scheduler.counters for n in cluster.nodes.values() if is_decoder(n)]
        assert not any(counter["encodes_asked_again"] for counter in counters)

    check(play(scenario))
    assert not asked


def is_decoder(node: object) -> bool:
    return isinstance(node, DecoderNode)


def test_a_request_that_is_only_slow_is_left_alone() -> None:
    """Its decoder is asked, and has it: no answer. Nor does one whose loop takes long."""

    async def scenario(cluster: Cluster) -> None:
        held: dict[str, Callable[[], None]] = {}
        for name, node in cluster.nodes.items():
            held[name], node.step = node.step, lambda: None  # type: ignore[method-assign]
        first(cluster).submit("a", 3, 5, stream=False)
        with pytest.raises(AssertionError, match="not done"):
            await cluster.run(60.0)
        for name, node in cluster.nodes.items():
            node.step = held[name]  # type: ignore[method-assign]
        await cluster.run()
        assert first(cluster).opened[0][0].request.attempt == 0

    check(play(scenario))


def test_the_answer_of_another_life_or_attempt_changes_nothing() -> None:
    async def scenario(cluster: Cluster) -> None:
        for _ in cluster.nodes:
            cluster.deliver(0)  # who the members are
        first(cluster).submit("a", 3, 5, stream=False)
        opened = first(cluster).opened[0][0]
        assert opened.worker is not None
        before = opened.worker._replace(epoch=opened.worker.epoch - 1)
        first(cluster).requests.handle(NotOpen([opened.request.id.number], before))
        first(cluster).requests.handle(NotOpen([77], opened.worker))
        assert opened.request.attempt == 0
        for _ in range(2):  # the second one comes twice
            first(cluster).requests.handle(NotOpen([0], opened.worker))
        assert opened.request.attempt == 1
        await cluster.run()

    cluster = play(scenario)
    check(cluster)
    idle(cluster)


@pytest.mark.parametrize("is_lost", [KINDS["submit"], KINDS["output"]])
def test_a_request_whose_messages_are_all_lost_ends_by_an_error(is_lost: Kind) -> None:
    async def scenario(cluster: Cluster) -> None:
        losing(cluster, is_lost, float("inf"))
        first(cluster).submit("a", 3, 5, stream=False)
        await cluster.run(2 * CHECK_SECONDS * (MAX_GAPS + 1) + 1.0)

    cluster = play(scenario)
    ((opened, _),) = first(cluster).opened
    error = opened.future.exception()
    assert isinstance(error, RequestFailed)
    assert str(error) == f"messages about it were lost {MAX_GAPS + 1} times"
    idle(cluster)


@pytest.mark.parametrize("is_lost", [kind(Withdraw), kind(Withdrawn)])
def test_lost_withdrawals_give_their_budget_back(is_lost: Kind) -> None:
    async def scenario(cluster: Cluster) -> None:
        losing(cluster, is_lost, 2)
        losing(cluster, kind(Input), 1)  # so that the job waits
        first(cluster).submit("a", 3, 5, stream=False)
        await cluster.turn()
        for _ in range(2):
            for node in cluster.nodes.values():
                node.step()
            while any(wire.messages for wire in cluster.wires.values()):
                cluster.deliver(0)
        first(cluster).requests.cancel(first(cluster).opened[0][0])
        await cluster.turn()

    idle(play(scenario))


SUBMIT = st.tuples(
    st.sampled_from("abcdef"), st.integers(1, 6), st.integers(1, 20), st.booleans(), st.booleans()
)


@examples(30)
@given(
    requests=st.lists(SUBMIT, min_size=1, max_size=12),
    share=st.sampled_from([0.02, 0.1, 0.3]),
    seed=st.integers(0, 10**6),
)
def test_any_message_may_be_lost(
    requests: list[tuple[str, int, int, bool, bool]], share: float, seed: int
) -> None:
    """All the time, a share of all messages; every request ends once, with the right tokens."""

    async def scenario(cluster: Cluster) -> None:
        choose = random.Random(seed)
        frontends = list(cluster.frontends.values())
        for index, (key, prompt, max_tokens, stream, stops) in enumerate(requests):
            stop = (9 + index,) if stops else ()
            frontends[index % 2].submit(key, prompt, max_tokens, stream, stop=stop)
        await cluster.run(3000.0, lose=lambda _: choose.random() < share)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flights, "MAX_GAPS", 10**6)
        cluster = play(scenario, frontends=2)
    check(cluster)
    idle(cluster)


def test_inputs_that_were_let_go_in_vain_do_not_fail_others() -> None:
    async def scenario(cluster: Cluster) -> None:
        losing(cluster, kind(InputGone), float("inf"))
        for number in range(6):
            first(cluster).submit("a", 3, 5, stream=False)
            if number % 2:
                first(cluster).requests.cancel(first(cluster).opened[-1][0])
        await cluster.run()

    check(play(scenario))
