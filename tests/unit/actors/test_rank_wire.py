"""Commands to the other ranks of a replica arrive as they were sent, all of them or an error."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from antiphon.actors.frames import MAX_FRAME_BYTES, AddressEncoder, MessageError
from antiphon.actors.rank_channel import CommandOrder
from antiphon.actors.rank_wire import RankDecoder, RankEncoder, RankMessage
from antiphon.config.decoding_rules import BeamRules, DecodingRules, TimestampRules
from antiphon.config.sampling import SamplingParams
from antiphon.decoder.rank_commands import (
    AdoptStates,
    Align,
    CollectStates,
    DropStates,
    Launch,
    PutStates,
    RankCommand,
)
from antiphon.runtime.ranks import RankError
from antiphon.scheduler.alignment import AlignedSequence
from antiphon.scheduler.beam_plan import BeamMoves
from antiphon.scheduler.cross_views import CrossChange, CrossSource
from antiphon.scheduler.grids import PlacedGrid
from antiphon.scheduler.plan import (
    Admission,
    CrossWrite,
    Embedding,
    Fork,
    NewPages,
    PlannedDrafts,
    Readouts,
    StepPlan,
)

TOKEN = b"t" * 16


def pages(*ids: int) -> np.ndarray:
    return np.array(ids, np.int32)


RULES = DecodingRules(
    (1,),
    (2, 3),
    (4,),
    5,
    6,
    7,
    2,
    ((8, 9), (1, 2, 3)),
    TimestampRules(50, 49, 48, 9),
    BeamRules(3, 2, True, 0.5, "never", 2.0),
)
PARAMS = SamplingParams(
    temperature=0.5, top_k=3, logit_bias={7: -2.5}, allowed_token_ids=[1, 2], logprobs=2, seed=3
)
GRIDS = (PlacedGrid(2, 1, 3, 4),)
PLAN = StepPlan(
    [Admission(1, np.arange(9), 5, 40, 2**40, PARAMS, RULES, pages(3, 4), pages(5), 9, GRIDS)],
    [CrossWrite("a" * 64, 17, pages(5, 6), (CrossSource("b", 1, 17, 3),))],
    np.array([4, 1, 0]),
    np.array([2**33, 7, 8]),
    np.array([1, 1, 9]),
    np.array([30, 4, 9]),
    np.array([True, False, True]),
    NewPages(pages(4), pages(2), pages(11)),
    {9: 8, 8: 7},
    [Fork(4, 2, 2**33, np.arange(4), 30, 6, (1, 2), pages(1, 2), pages(3), 5)],
    41,
    Readouts(pages(2, 2), pages(1, 3), pages(5, 2**20), pages(0, 1)),
    [Embedding("b", 1, 2, 3)],
    ("b", "c"),
    1,
    BeamMoves(
        *(np.array(numbers) for numbers in ((3, 1), (2**33, 7), (1, 1), (4, 4), (9, 8))),
        np.array([[1, 2], [1, 3]], np.int32),
    ),
    [CrossChange(4, pages(7, 8), 19, 1)],
    PlannedDrafts(np.array([2, 0, 1]), 2, np.array([[5, 6], [0, 0], [7, 0]]), np.array([1, 4, 2])),
)
BY_MODEL = replace(PLAN, drafts=PlannedDrafts(np.array([2, 0, 1]), 2, None, np.array([1, 4, 2])))
PLAIN = StepPlan([], [], *(np.arange(1, 65) for _ in range(4)), np.ones(64, bool), number=2)


def sent(command: RankCommand, number: int = 0, epoch: int = 3) -> list[RankMessage]:
    encoded = RankEncoder().encode(RankMessage(epoch, number, command))
    frames = AddressEncoder(TOKEN).encode(encoded)
    assert all(len(frame) <= MAX_FRAME_BYTES for frame in frames)
    assert bytes(frames[0][:16]) == TOKEN
    return RankDecoder().decode([memoryview(bytearray(frame)) for frame in frames])


def same(one: Any, other: Any) -> bool:
    if isinstance(other, np.ndarray):
        is_equal: bool = np.array_equal(one, other)
        return is_equal and one.dtype.kind == other.dtype.kind
    if isinstance(other, SamplingParams | DecodingRules) or other is None:
        return bool(one == other)
    if dataclasses.is_dataclass(other):
        names = [field.name for field in dataclasses.fields(other)]
        return all(same(getattr(one, name), getattr(other, name)) for name in names)
    if isinstance(other, msgspec.Struct):
        names = [*other.__struct_fields__]
        return all(same(getattr(one, name), getattr(other, name)) for name in names)
    if isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(other, Mapping):
        return list(one.items()) == list(other.items())
    return bool(one == other)


@pytest.mark.parametrize(
    "command",
    [
        Launch(PLAN, 39, ((38, (1, 3)), (39, (2,)))),
        Launch(PLAIN),
        Launch(BY_MODEL),
        PutStates(("a", "b"), (3, 4), np.arange(7)),
        AdoptStates(("a", "b"), (3, 4), np.arange(7)),
        CollectStates(4, ("a", "b"), (3, 4), (3, 0, 4), ("b",), np.arange(4)),
        CollectStates(5, ("", "b"), (3, 4), (3, 4), (), np.arange(0), whole=True),
        DropStates(("a", "b")),
        Align((AlignedSequence(3, np.arange(5), 2, 750), AlignedSequence(0, np.arange(0), 0, 1))),
    ],
    ids=[
        "everything",
        "decodes",
        "drafts",
        "put",
        "adopt",
        "collect",
        "collect all",
        "drop",
        "align",
    ],
)
def test_commands_arrive_as_they_were_sent(command: RankCommand) -> None:
    ((epoch, number, received),) = sent(command, number=5)
    assert (epoch, number) == (3, 5)
    assert type(received) is type(command)
    assert same(received, command)


def test_the_sample_has_every_part_of_a_plan() -> None:
    """So that a part which is added must travel too."""
    for name in StepPlan.__struct_fields__:
        assert not same(getattr(PLAN, name), getattr(PLAIN, name)), name
    for one in (*PLAN.admissions, *PLAN.forks, *PLAN.cross_writes, *PLAN.embeddings):
        assert all(np.any(getattr(one, name)) for name in one.__struct_fields__)


def test_arrays_of_a_received_plan_can_be_written() -> None:
    """torch warns of tensors that share memory which cannot."""
    ((_, _, launch),) = sent(Launch(PLAN))
    assert isinstance(launch, Launch)
    (admission,), (write,) = launch.plan.admissions, launch.plan.cross_writes
    arrays = [launch.plan.slots, admission.token_ids, admission.self_pages, write.pages]
    assert all(array.flags.writeable for array in arrays)


def test_a_plan_longer_than_a_frame_travels_in_pieces() -> None:
    tokens = np.arange(MAX_FRAME_BYTES // 4)
    admission = replace(PLAN.admissions[0], token_ids=tokens)
    long = replace(PLAN, admissions=[admission])
    ((_, _, launch),) = sent(Launch(long))
    assert same(launch, Launch(long))


def test_a_step_of_64_sequences_is_one_small_frame() -> None:
    (frame,) = RankEncoder().encode(RankMessage(0, 0, Launch(PLAIN)))
    assert len(frame) < 3000


def test_what_cannot_travel_and_what_is_no_command_are_refused() -> None:
    unsendable = replace(PLAN, spent=(object(),))  # type: ignore[arg-type]
    with pytest.raises(MessageError, match="cannot be sent"):
        RankEncoder().encode(RankMessage(0, 0, Launch(unsendable)))
    with pytest.raises(MessageError, match="no command"):
        RankDecoder().decode([memoryview(TOKEN + b"\1\0\0\0" + b"nonsense")])


@pytest.mark.parametrize(("epoch", "number"), [(3, 2), (3, 0), (2, 1), (4, 1)])
def test_a_missing_command_or_one_of_another_life_ends_the_rank(epoch: int, number: int) -> None:
    order = CommandOrder(epoch=3)
    assert order.check(RankMessage(3, 0, DropStates(("a",)))) == DropStates(("a",))
    sentence = f"command {number} of epoch {epoch} came where command 1 of epoch 3 was due"
    with pytest.raises(RankError, match=sentence):
        order.check(RankMessage(epoch, number, DropStates(("a",))))
