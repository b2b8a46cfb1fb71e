"""Jobs and their inputs meet at an encoder, in whatever order they come."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_examples import examples

from antiphon.actors.encoder_jobs import (
    ANSWERED_SECONDS,
    ASK_AGAIN_SECONDS,
    ASK_SECONDS,
    EncoderJobs,
    job_id,
)
from antiphon.actors.messages import EncodeJob, Input, InputGone
from antiphon.scheduler.trials import ANNOUNCED_SECONDS, trial_mark

ARRAY = np.zeros(25, np.float32)  # 100 bytes


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def jobs(clock: Clock) -> EncoderJobs:
    return EncoderJobs(batch_tokens=100, store_bytes=250, clock=clock)


def job(key: str, *frontends: str, decoder: str = "decoder-0") -> EncodeJob:
    return EncodeJob(key, 10, decoder, frontends or ("f",))


def sent(key: str, frontend: str = "f") -> Input:
    return Input(frontend, key, ARRAY)


def begun(jobs: EncoderJobs) -> list[str]:
    batch, inputs = jobs.next_batch()
    assert all(array is ARRAY for array in inputs)
    assert len(batch) == len(inputs)
    return [job.key for job in batch]


def test_a_job_begins_when_its_input_is_here_and_passes_those_that_lack_theirs(
    jobs: EncoderJobs,
) -> None:
    jobs.receive(sent("early"))
    jobs.add([job("late"), job("early")])
    assert begun(jobs) == ["early"]
    assert len(jobs) == 0
    jobs.receive(sent("late"))
    assert begun(jobs) == ["late"]
    assert jobs.bytes_held == 0


def test_an_input_that_does_not_come_is_asked_for_and_asked_for_again(
    jobs: EncoderJobs, clock: Clock
) -> None:
    jobs.add([job("a"), job("b", "f", "g"), job("c", "g")])
    assert jobs.to_ask() == {}
    clock.now += ASK_SECONDS
    assert jobs.to_ask() == {"f": ["a", "b"], "g": ["c"]}
    assert jobs.to_ask() == {}
    jobs.receive(sent("a"))
    clock.now += ASK_AGAIN_SECONDS
    assert jobs.to_ask() == {"g": ["b", "c"]}  # of "b", the other frontend is asked now


def test_jobs_fail_when_nobody_holds_their_input(jobs: EncoderJobs, clock: Clock) -> None:
    jobs.add([job("a", "f", "g"), job("a", "f", "g", decoder="decoder-1"), job("b", "f")])
    clock.now += ASK_SECONDS
    jobs.to_ask()
    assert jobs.gone(InputGone("f", ("a", "b"))) == [job("b", "f")]
    assert jobs.to_ask() == {"g": ["a"]}  # at once
    failed = jobs.detach("g")
    assert [(each.key, each.decoder) for each in failed] == [("a", "decoder-0"), ("a", "decoder-1")]
    clock.now += 10
    assert jobs.to_ask() == {}


def test_inputs_that_came_too_early_have_a_bound_and_those_with_a_job_do_not(
    jobs: EncoderJobs, clock: Clock
) -> None:
    for key in "abcd":
        jobs.receive(sent(key))
    assert jobs.bytes_held == 200  # "c" and "d" have no room
    jobs.add([job(key) for key in "abcd"])
    clock.now += ASK_SECONDS
    assert jobs.to_ask() == {"f": ["c", "d"]}
    jobs.receive(sent("c"))
    jobs.receive(sent("d"))
    assert begun(jobs) == list("abcd")
    assert jobs.bytes_held == 0


def test_an_input_that_is_not_needed_after_all_is_let_go(jobs: EncoderJobs) -> None:
    jobs.receive(sent("a"))
    jobs.receive(sent("a", "g"))
    jobs.gone(InputGone("f", ("a",)))
    assert jobs.bytes_held == 100  # "g" still uses it
    jobs.gone(InputGone("g", ("a",)))
    assert jobs.bytes_held == 0
    jobs.receive(sent("b"))
    jobs.add([job("b")])
    jobs.gone(InputGone("f", ("b",)))
    assert begun(jobs) == ["b"]  # it is here, and somebody asked for it


def test_an_input_goes_with_its_last_job_that_is_withdrawn(jobs: EncoderJobs) -> None:
    jobs.receive(sent("a"))
    jobs.add([job("a"), job("a", decoder="decoder-1"), job("lacking")])
    keys = ("a", "lacking", "unknown")
    assert jobs.withdraw("decoder-0", keys) == keys, "one without a job may have been lost"
    assert jobs.bytes_held == 100
    assert jobs.withdraw("decoder-1", ("a",)) == ("a",)
    assert jobs.bytes_held == 0
    assert not _all(jobs)


def test_a_job_that_is_asked_for_again_is_done_once(jobs: EncoderJobs, clock: Clock) -> None:
    jobs.add([job("lacking"), job("a")])
    jobs.receive(sent("a"))
    jobs.add([job("lacking", "g"), job("a")], again=True)
    assert [each.key for each in _all(jobs)] == ["a", "lacking"]
    clock.now += 1.0
    assert set(jobs.to_ask()) == {"f"}
    clock.now += 1.0
    assert set(jobs.to_ask()) == {"g"}, "it names one more frontend"
    batch, _ = jobs.next_batch()
    jobs.add([job("a")], again=True)
    assert not len(jobs), "it has begun"
    jobs.end(batch)
    clock.now += ANSWERED_SECONDS / 2
    jobs.add([job("a")], again=True)
    assert "a" not in jobs._lacking, "the answer and the question have crossed"
    clock.now += ANSWERED_SECONDS
    jobs.add([job("a")], again=True)
    assert "a" in jobs._lacking, "the answer was lost"


def test_content_that_was_encoded_just_now_may_be_wanted_anew(jobs: EncoderJobs) -> None:
    jobs.receive(sent("a"))
    jobs.add([job("a")])
    jobs.end(jobs.next_batch()[0])
    jobs.receive(sent("a"))
    jobs.add([job("a")])
    assert begun(jobs) == ["a"]


def test_what_has_begun_is_not_withdrawn(jobs: EncoderJobs) -> None:
    jobs.receive(sent("a"))
    jobs.add([job("a")])
    batch, _ = jobs.next_batch()
    assert jobs.withdraw("decoder-0", ("a",)) == ()
    jobs.end(batch)
    assert jobs.withdraw("decoder-0", ("a",)) == ("a",)


keys = st.sampled_from("abc")
frontends = st.sampled_from("fg")
decoders = st.sampled_from(["decoder-0", "decoder-1"])


@examples(150)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("input"), keys, frontends),
            st.tuples(st.just("job"), keys, decoders, st.lists(frontends, min_size=1, max_size=2)),
            st.tuples(st.just("gone"), keys, frontends),
            st.tuples(st.just("detach"), frontends),
            st.tuples(st.just("withdraw"), keys, decoders),
            st.tuples(st.just("begin")),
            st.tuples(st.just("end")),
            st.tuples(st.just("time")),
        ),
        max_size=40,
    )
)
def test_every_job_ends_once_and_nothing_is_held_in_the_end(events: list[tuple[str, ...]]) -> None:
    clock, open_jobs, in_flight = Clock(), 0, list[EncodeJob]()
    jobs = EncoderJobs(25, 250, clock)
    for kind, *values in events:
        if kind == "input":
            jobs.receive(sent(*values))
        elif kind == "job":
            key, decoder, names = values
            known = {*map(job_id, _all(jobs)), *jobs._begun}
            jobs.add([job(key, *names, decoder=decoder)])
            open_jobs += (decoder, key) not in known
        elif kind == "gone":
            open_jobs -= len(jobs.gone(InputGone(values[1], (values[0],))))
        elif kind == "detach":
            open_jobs -= len(jobs.detach(values[0]))
        elif kind == "withdraw":
            is_open = (values[1], values[0]) in map(job_id, _all(jobs))
            confirmed = jobs.withdraw(values[1], (values[0],))
            assert len(confirmed) == ((values[1], values[0]) not in jobs._begun)
            open_jobs -= is_open
        elif kind == "begin" and len(jobs):
            batch, _ = jobs.next_batch()
            open_jobs -= len(batch)
            in_flight += batch
        elif kind == "end":
            jobs.end(in_flight)
            in_flight = []
        else:
            clock.now += 1
            jobs.to_ask()
        assert len(_all(jobs)) == open_jobs
        assert jobs.bytes_held == 100 * len(jobs._held)
    for frontend in "fg":
        open_jobs -= len(jobs.detach(frontend))
    while len(jobs):
        open_jobs -= len(jobs.next_batch()[0])
    assert open_jobs == 0
    assert jobs.bytes_held == 0


def _all(jobs: EncoderJobs) -> list[EncodeJob]:
    lacking = [each for lacking in jobs._lacking.values() for each in lacking.jobs]
    return [*jobs.ready._jobs.values(), *lacking]


def test_an_input_that_was_sent_elsewhere_is_asked_for_at_once(jobs: EncoderJobs) -> None:
    jobs.add([EncodeJob("k", 10, "decoder-0", ("f", "g"), sent_ahead=False), job("here")])
    assert jobs.to_ask() == {"f": ["k"]}
    assert jobs.to_ask() == {}
    assert jobs.num_tokens == 20
    jobs.receive(sent("k"))
    assert begun(jobs) == ["k"]


def on_trial(key: str, decoder: str = "decoder-0") -> EncodeJob:
    return EncodeJob(key, 10, decoder, ("f",), trial=True)


def test_suspects_are_encoded_one_by_one_for_all_who_want_them(
    jobs: EncoderJobs, clock: Clock
) -> None:
    """Each is named before it begins. Others do not wait."""
    jobs.add([on_trial("a"), on_trial("b"), job("c")])
    jobs.add([job("a", decoder="decoder-1")])  # which knows of no deaths
    for key in "abc":
        jobs.receive(sent(key, "f"))
    assert jobs.senders == {"decoder-0", "decoder-1"}
    assert begun(jobs) == ["c"]
    assert jobs.ready.trials.mark == trial_mark("a")
    clock.now += ANNOUNCED_SECONDS
    batch, _ = jobs.next_batch()
    assert [(job.key, job.decoder) for job in batch] == [("a", "decoder-0"), ("a", "decoder-1")]
    clock.now += ANNOUNCED_SECONDS
    assert begun(jobs) == []
    jobs.end(batch)
    assert begun(jobs) == []
    assert jobs.ready.trials.mark == trial_mark("b")
    clock.now += ANNOUNCED_SECONDS
    assert begun(jobs) == ["b"]


def test_a_suspect_that_is_withdrawn_makes_room_for_the_next(
    jobs: EncoderJobs, clock: Clock
) -> None:
    for key in "ab":
        jobs.receive(sent(key, "f"))
    jobs.add([on_trial("a"), on_trial("b")])
    assert begun(jobs) == []
    assert jobs.withdraw("decoder-0", ["a"]) == ("a",)
    assert begun(jobs) == []
    clock.now += ANNOUNCED_SECONDS
    assert begun(jobs) == ["b"]


def test_a_trial_that_runs_goes_on_if_another_decoder_withdraws(
    jobs: EncoderJobs, clock: Clock
) -> None:
    jobs.receive(sent("a", "f"))
    jobs.add([on_trial("a")])
    assert begun(jobs) == []
    clock.now += ANNOUNCED_SECONDS
    assert begun(jobs) == ["a"]
    jobs.add([on_trial("a", "decoder-1")])
    jobs.withdraw("decoder-1", ["a"])
    assert jobs.ready.trials.mark == trial_mark("a")
