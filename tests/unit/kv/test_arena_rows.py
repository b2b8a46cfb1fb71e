"""Rows of an arena, with encoders in other processes that write late, twice, or never."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from random_examples import examples

from antiphon.kv.arena_rows import ArenaRows, Writer

ROOM = 20
LENGTHS = {"a": 3, "b": 5, "c": 7, "d": 9}
KEYS = st.sampled_from(sorted(LENGTHS))
ENCODERS = st.sampled_from([0, 1])
ONE = ("encoder-0", 1)


@dataclass
class Write:
    """What an encoder was asked for, and may do at any time until its process is gone."""

    writer: Writer
    key: str
    ticket: int
    rows: np.ndarray
    is_done: bool = False  # but the decoder does not know


@dataclass
class Queued:
    """A step of the decoder, which expects what its keys had when it was launched; or, without a
    number, a copy to the rows of a key."""

    number: int | None
    rows: dict[str, np.ndarray] = field(default_factory=dict)


class LateWriters(RuleBasedStateMachine):
    """A row is written by whom it belongs to alone; a step reads what was there for its key."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = ArenaRows(ROOM)
        self.content = np.full(ROOM, "", object)
        self.epochs = [1, 1]
        self.writes: list[Write] = []
        self.present: set[str] = set()
        self.queue: list[Queued] = []
        self.launched = 0

    # ------------------------------------------------------------------ the decoder

    @rule(key=KEYS, encoder=ENCODERS)
    def ask(self, key: str, encoder: int) -> None:
        writer = (f"encoder-{encoder}", self.epochs[encoder])
        reserved = self.rows.reserve(key, LENGTHS[key], writer)
        if reserved is not None:
            assert len(set(reserved.rows.tolist())) == LENGTHS[key]
            self.writes.append(Write(writer, key, *reserved))

    @rule(key=KEYS)
    def put(self, key: str) -> None:
        """The same states come another way: queued behind all steps."""
        if key in self.rows or self.rows.num_free >= LENGTHS[key]:
            rows = self.rows.take(key, LENGTHS[key])
            self.queue.append(Queued(None, {key: rows}))
            self.present.add(key)

    @rule(key=KEYS)
    def drop(self, key: str) -> None:
        self.rows.drop(key)
        self.present.discard(key)

    @precondition(lambda self: self.present)
    @rule(data=st.data())
    def launch(self, data: st.DataObject) -> None:
        self.launched += 1
        self.rows.launched = self.launched
        step = Queued(self.launched)
        for key in data.draw(st.sets(st.sampled_from(sorted(self.present)), max_size=2)):
            self.rows.use(key)
            step.rows[key] = self.rows.of(key)
        self.queue.append(step)

    @precondition(lambda self: self.queue)
    @rule()
    def run_oldest(self) -> None:
        item = self.queue.pop(0)
        for key, rows in item.rows.items():
            if item.number is None:
                self.content[rows] = key
            assert (self.content[rows] == key).all(), "another key's states were written here"
        if item.number is not None:
            self.rows.settle(item.number)

    # ------------------------------------------------------------------ encoders

    @precondition(lambda self: any(not write.is_done for write in self.writes))
    @rule(data=st.data())
    def write(self, data: st.DataObject) -> None:
        waiting = [write for write in self.writes if not write.is_done]
        write = data.draw(st.sampled_from(waiting))
        self.content[write.rows] = write.key
        write.is_done = True

    @precondition(lambda self: self.writes)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        """In the order in which a writer was asked; or it was withdrawn before it had begun."""
        first = {write.writer: write for write in reversed(self.writes)}
        write = data.draw(st.sampled_from(list(first.values())))
        self.writes.remove(write)
        may_be_used = self.rows.answered(write.key, write.writer, write.ticket)
        assert may_be_used
        if write.is_done and write.key in self.rows:
            assert (self.content[self.rows.of(write.key)] == write.key).all()
            self.present.add(write.key)

    @rule(encoder=ENCODERS)
    def die(self, encoder: int) -> None:
        """And with it those lives of it that had given up."""
        name = f"encoder-{encoder}"
        self.writes = [write for write in self.writes if write.writer[0] != name]
        self.rows.end_writers(name, self.epochs[encoder])
        self.epochs[encoder] += 1

    @rule(encoder=ENCODERS, data=st.data())
    def give_up(self, encoder: int, data: st.DataObject) -> None:
        """It says which of its writes may still land, and is asked no more: its next life is."""
        writer = (f"encoder-{encoder}", self.epochs[encoder])
        self.epochs[encoder] += 1
        keys = sorted({write.key for write in self.writes if write.writer == writer})
        landing = data.draw(st.sets(st.sampled_from(keys))) if keys else set()
        others = [write for write in self.writes if write.writer != writer]
        stay = [write for write in self.writes if write.writer == writer and write.key in landing]
        self.writes = others + stay
        self.rows.end_writes(writer, landing)
        rows = sum(LENGTHS[key] for key in landing)
        assert self.rows.num_written({writer}) == rows

    # ------------------------------------------------------------------ always

    @invariant()
    def rows_have_one_owner(self) -> None:
        owned = [row for key in LENGTHS if key in self.rows for row in self.rows.of(key).tolist()]
        free = self.rows.free().tolist()
        assert len(set(owned) | set(free)) == len(owned) + len(free)
        assert len(owned) + len(free) + self.rows.num_blocked == ROOM
        assert self.rows.num_free == len(free)

    @invariant()
    def rows_that_may_be_written_are_not_free(self) -> None:
        free = set(self.rows.free().tolist())
        for write in self.writes:
            assert not free & set(write.rows.tolist())

    @invariant()
    def what_is_blocked_is_what_a_writer_holds(self) -> None:
        open_ = {(write.key, write.writer) for write in self.writes}
        blocked = {(key, writer) for key, writer, _ in self.rows.blocked()}
        assert blocked == {(key, writer) for key, writer in open_ if key not in self.rows}


TestLateWriters = LateWriters.TestCase
TestLateWriters.settings = examples(60, stateful_step_count=30)


def test_rows_that_steps_may_read_are_filled_by_this_device_alone() -> None:
    rows = ArenaRows(4)
    rows.take("a", 4)
    rows.launched = 3
    rows.use("a")
    rows.drop("a")
    rows.settle(2)
    assert rows.num_free == 4
    assert rows.reserve("b", 4, ONE) is None
    rows.settle(3)
    assert rows.reserve("b", 4, ONE) is not None


def test_a_new_request_gets_the_rows_that_a_late_writer_blocks() -> None:
    rows = ArenaRows(4)
    first = rows.reserve("a", 4, ONE)
    assert first is not None
    rows.drop("a")
    assert (rows.num_free, rows.num_blocked) == (0, 4)
    assert rows.reserve("b", 1, ONE) is None
    again = rows.reserve("a", 4, ("encoder-1", 1))
    assert again is not None
    assert again.ticket > first.ticket
    assert np.array_equal(again.rows, first.rows)
    rows.drop("a")
    assert rows.answered("a", ONE, first.ticket)
    assert rows.num_blocked == 4, "the second encoder may write"
    rows.end_writers("encoder-1", 0)
    assert rows.num_blocked == 4
    rows.end_writers("encoder-1", 1)
    assert (rows.num_free, rows.num_blocked) == (4, 0)


def test_an_early_answer_says_nothing_of_what_was_asked_since() -> None:
    rows = ArenaRows(4)
    first, second = rows.reserve("a", 4, ONE), rows.reserve("a", 4, ONE)
    assert first is not None
    assert second is not None
    rows.drop("a")
    assert rows.answered("a", ONE, first.ticket)
    assert rows.num_blocked == 4
    assert rows.answered("a", ONE, second.ticket)
    assert not rows.answered("a", ONE, second.ticket)
    assert rows.num_free == 4


def test_too_few_rows_are_refused_with_numbers() -> None:
    rows = ArenaRows(4)
    rows.take("a", 3)
    with pytest.raises(ValueError, match="2 hidden states, and room for 1"):
        rows.take("b", 2)
