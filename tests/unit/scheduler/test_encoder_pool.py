"""Which encoder a decoder asks for a piece of work."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from antiphon.scheduler.encoder_pool import EncoderPool
from antiphon.scheduler.request import Media
from antiphon.scheduler.sketch import sketch
from antiphon.scheduler.worker_load import WorkerState

NAMES = ("e0", "e1", "e2")


def media(key: str = "k", tokens: int = 10) -> Media:
    return Media(key, "audio", tokens)


def report(name: str, tokens: float, heartbeats: int = 1, **fields: Any) -> WorkerState:
    load = {"tokens": tokens, "heartbeats": heartbeats}
    return WorkerState(name, "encoder", 1, load=load, **fields)


def pool_of(*reports: WorkerState) -> EncoderPool:
    pool = EncoderPool()
    pool.set_epochs({state.name: 1 for state in reports})
    pool.report(reports)
    return pool


def test_before_anybody_has_told_of_encoders_the_one_with_the_input_is_asked() -> None:
    pool = EncoderPool()
    assert pool.pick(media(), "e7") == "e7"
    assert pool.takes(["k"])
    pool.set_epochs({})
    assert not pool.takes(["k"])


def test_the_one_with_the_input_is_asked_until_its_queue_is_longer_by_more_than_the_input() -> None:
    pool = pool_of(report("e0", 30), report("e1", 20))
    assert pool.pick(media(), "e0") == "e0"
    assert pool.pick(media(), "") == "e1"
    pool.ask("e0", 1)
    assert pool.pick(media(), "e0") == "e1"
    assert pool.pick(media(tokens=11), "e0") == "e0"


def test_an_encoder_may_say_itself_that_it_has_the_input() -> None:
    pool = pool_of(report("e0", 5), report("e1", 9, held=sketch(["k"])))
    assert pool.pick(media(), "") == "e1"
    assert pool.pick(media("other"), "") == "e0"


def test_one_that_ends_soon_is_asked_only_if_there_is_no_other() -> None:
    pool = pool_of(report("e0", 0, draining=True), report("e1", 500))
    assert pool.pick(media(), "e0") == "e1"
    pool.set_epochs({"e0": 1})
    assert pool.pick(media(), "e1") == "e0"


def test_a_new_report_counts_what_was_asked_for_before_it() -> None:
    pool = pool_of(report("e0", 0), report("e1", 0))
    pool.ask("e0", 10)
    pool.report([report("e0", 25, heartbeats=2), report("e1", 0)])
    assert pool.queue("e0") == 25
    pool.answer("e0", 10)
    assert pool.queue("e0") == 15
    pool.ask("e0", 40)
    pool.report([report("e0", 0, heartbeats=3)])  # made before the work arrived there
    assert pool.queue("e0") == 40


def test_nothing_is_left_of_the_last_life_of_an_encoder() -> None:
    pool = pool_of(report("e0", 1000, held=sketch(["k"])), report("e1", 10))
    pool.set_epochs({"e0": 2, "e1": 1})
    assert pool.queue("e0") == 0
    assert pool.pick(media(), "e1") == "e1"
    assert pool.pick(media(), "") == "e0"


def test_news_of_loads_alone_bring_back_nobody() -> None:
    """An encoder that a decoder could not reach stays out until the supervisor has news of it."""
    pool = EncoderPool()
    first, second = report("e0", 0), report("e1", 0)
    assert pool.report([first, second]) == {"e0": 1, "e1": 1}
    pool.set_epochs({"e1": 1})
    assert pool.report([report("e0", 9, heartbeats=2), second]) is None
    assert pool.epochs == {"e1": 1}
    pool.set_epochs({})
    assert pool.report([first, second]) == {"e0": 1, "e1": 1}, "better than none"
    assert pool.report([WorkerState("e0", "encoder", 1, alive=False), second]) == {"e1": 1}
    assert pool.report([WorkerState("e0", "encoder", 2), second]) == {"e0": 2, "e1": 1}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["ask", "answer", "report"]),
            st.sampled_from(NAMES),
            st.integers(1, 50),
            st.booleans(),
        ),
        max_size=60,
    )
)
def test_queues_stay_level_whatever_holds_the_inputs(events: list[Any]) -> None:
    """The one that is asked has at most the input itself more in its queue than any other."""
    pool = pool_of(*(report(name, 0) for name in NAMES))
    asked: list[tuple[str, int]] = []
    for number, (kind, name, tokens, has_input) in enumerate(events):
        if kind == "ask":
            chosen = pool.pick(media(str(number), tokens), name if has_input else "")
            assert pool.queue(chosen) - min(map(pool.queue, NAMES)) <= tokens * has_input
            pool.ask(chosen, tokens)
            asked.append((chosen, tokens))
        elif kind == "answer" and asked:
            pool.answer(*asked.pop(0))
        elif kind == "report":
            pool.report([report(name, tokens, heartbeats=2 + number)])
        for encoder in NAMES:
            waited_for = sum(size for worker, size in asked if worker == encoder)
            assert pool.queue(encoder) >= waited_for
    for work in asked:
        pool.answer(*work)
    assert not any(pool._asked.values())
