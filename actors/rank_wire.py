"""Commands for the other ranks of a replica as frames, encoded once for all of them.

They are sent for every step, so that arrays travel as plain bytes with a fixed type: a tenth of the
time that arrays with a description take. The head of a message is [epoch, number, command].
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from antiphon.actors.frames import (
    MAX_FRAME_BYTES,
    PREFIX,
    MessageError,
    split_frames,
)
from antiphon.actors.rank_arrays import (
    drafts_bytes,
    drafts_of,
    longs,
    moves_bytes,
    moves_of,
    pages_bytes,
    pages_of,
    rows_of,
)
from antiphon.actors.rank_frames import (
    AdmissionFrame,
    AdoptStatesFrame,
    AlignFrame,
    CollectStatesFrame,
    CommandFrame,
    CrossWriteFrame,
    DropStatesFrame,
    ForkFrame,
    LaunchFrame,
    PutStatesFrame,
)
from antiphon.config.errors import describe
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
from antiphon.scheduler.alignment import AlignedSequence
from antiphon.scheduler.cross_views import CrossChange
from antiphon.scheduler.plan import (
    NO_NEW_PAGES,
    NO_READOUTS,
    Admission,
    CrossWrite,
    Embedding,
    Fork,
    NewPages,
    Readouts,
    StepPlan,
)


class RankMessage(NamedTuple):
    """A command, which is number `number` (from 0) of the leader's life `epoch`."""

    epoch: int
    number: int
    command: RankCommand


_Wire = tuple[int, int, CommandFrame]


# ---------------------------------------------------------------------- encoding


class RankEncoder:
    """For one thread at a time."""

    def __init__(self) -> None:
        self._encoder = msgspec.msgpack.Encoder(enc_hook=_plain)

    def encode(self, message: RankMessage) -> list[memoryview]:
        """Pieces of a message, the same for every receiver. Raises MessageError."""
        epoch, number, command = message
        try:
            head = self._encoder.encode((epoch, number, _to_wire(command)))
        except (TypeError, ValueError, OverflowError) as error:
            raise MessageError(f"cannot be sent: {describe(error)}") from error
        return split_frames(memoryview(head), MAX_FRAME_BYTES - PREFIX.size)


def _plain(value: Any) -> Any:
    """Numpy's numbers, and mappings that are no dict."""
    return value.item() if isinstance(value, np.generic) else dict(value)


def _to_wire(command: RankCommand) -> Any:
    match command:
        case Launch():
            return _launch(command)
        case PutStates(keys, lengths, rows):
            return PutStatesFrame(keys, lengths, longs(rows))
        case AdoptStates(keys, lengths, rows):
            return AdoptStatesFrame(keys, lengths, longs(rows))
        case CollectStates(batch, keys, lengths, tokens, wanted, rows, whole):
            return CollectStatesFrame(batch, keys, lengths, tokens, wanted, longs(rows), whole)
        case DropStates(keys):
            return DropStatesFrame(keys)
        case Align(ended):
            return AlignFrame([(e.slot, longs(e.positions), e.lead, e.frames) for e in ended])


def _launch(command: Launch) -> LaunchFrame:
    plan = command.plan
    new, reads, copies = plan.new_pages, plan.readouts, plan.page_copies
    return LaunchFrame(
        plan.number,
        plan.lane,
        longs(plan.slots, plan.ids, plan.query_lens, plan.kv_lens, plan.samples),
        longs(new.slots, new.columns, new.pages) if len(new.slots) else b"",
        longs([*copies], [*copies.values()]) if copies else b"",
        longs(reads.rows, reads.queries, reads.token_ids, reads.indices) if len(reads) else b"",
        [_admission(admission) for admission in plan.admissions],
        [_fork(fork) for fork in plan.forks],
        [
            CrossWriteFrame(w.key, w.num_tokens, pages_bytes(w.pages), w.sources)
            for w in plan.cross_writes
        ],
        [(part.key, part.first, part.token, part.count) for part in plan.embeddings],
        tuple(plan.spent),
        command.launched,
        command.refused,
        moves_bytes(plan.beam_moves),
        [(c.slot, pages_bytes(c.pages), c.length, int(c.sees)) for c in plan.cross_changes],
        drafts_bytes(plan.drafts),
    )


def _admission(one: Admission) -> AdmissionFrame:
    params = {name: getattr(one.params, name) for name in one.params.fields_set}
    return AdmissionFrame(
        one.slot, longs(one.token_ids), one.prompt_len, one.max_len, one.seed, params, one.rules,
        pages_bytes(one.self_pages), pages_bytes(one.cross_pages), one.cross_len, one.grids,
        int(one.sees),
    )  # fmt: skip


def _fork(one: Fork) -> ForkFrame:
    return ForkFrame(
        one.source, one.slot, one.id, longs(one.token_ids), one.max_len, one.seed, one.stop_ids,
        pages_bytes(one.self_pages), pages_bytes(one.cross_pages), one.cross_len, int(one.sees),
    )  # fmt: skip


# ---------------------------------------------------------------------- decoding


class RankDecoder:
    """Of all messages that a rank receives from its leader."""

    def __init__(self) -> None:
        self._decoder = msgspec.msgpack.Decoder(_Wire)

    def decode(self, frames: Sequence[memoryview]) -> list[RankMessage]:
        """The message in these frames. Raises MessageError."""
        try:
            head = frames[0][PREFIX.size :]
            if len(frames) > 1:
                head = memoryview(b"".join([head, *frames[1:]]))
            epoch, number, wire = self._decoder.decode(head)
            return [RankMessage(epoch, number, _from_wire(wire))]
        except Exception as error:  # of msgspec, numpy, or the parameters' constructor
            raise MessageError(f"no command: {describe(error)}") from error


def _from_wire(wire: CommandFrame) -> RankCommand:
    match wire:
        case LaunchFrame():
            return Launch(_plan_of(wire), wire.launched, wire.refused)
        case AdoptStatesFrame():
            return AdoptStates(wire.keys, wire.lengths, rows_of(wire.rows, 1)[0])
        case PutStatesFrame():
            return PutStates(wire.keys, wire.lengths, rows_of(wire.rows, 1)[0])
        case CollectStatesFrame(batch, keys, lengths, tokens, wanted, rows, whole):
            return CollectStates(batch, keys, lengths, tokens, wanted, rows_of(rows, 1)[0], whole)
        case DropStatesFrame():
            return DropStates(wire.keys)
        case AlignFrame(ended):
            parts = ((slot, rows_of(rows, 1)[0], *rest) for slot, rows, *rest in ended)
            return Align(tuple(AlignedSequence(*fields) for fields in parts))


def _plan_of(wire: LaunchFrame) -> StepPlan:
    slots, ids, query_lens, kv_lens, samples = rows_of(wire.rows, 5)
    copies = zip(*rows_of(wire.page_copies, 2).tolist(), strict=True)
    return StepPlan(
        [_admission_of(one) for one in wire.admissions],
        [CrossWrite(w.key, w.num_tokens, pages_of(w.pages), w.sources) for w in wire.cross_writes],
        slots,
        ids,
        query_lens,
        kv_lens,
        samples.astype(bool),
        NewPages(*rows_of(wire.new_pages, 3)) if wire.new_pages else NO_NEW_PAGES,
        dict(copies),
        [_fork_of(one) for one in wire.forks],
        wire.number,
        Readouts(*rows_of(wire.readouts, 4)) if wire.readouts else NO_READOUTS,
        [Embedding(*part) for part in wire.embeddings],
        wire.spent,
        wire.lane,
        moves_of(*wire.beam_moves),
        [CrossChange(slot, pages_of(p), *rest) for slot, p, *rest in wire.cross_changes],
        drafts_of(*wire.drafts),
    )


def _admission_of(one: AdmissionFrame) -> Admission:
    return Admission(
        one.slot, rows_of(one.token_ids, 1)[0], one.prompt_len, one.max_len, one.seed,
        SamplingParams(**one.params), one.rules, pages_of(one.self_pages),
        pages_of(one.cross_pages), one.cross_len, one.grids, one.sees,
    )  # fmt: skip


def _fork_of(one: ForkFrame) -> Fork:
    return Fork(
        one.source, one.slot, one.id, rows_of(one.token_ids, 1)[0], one.max_len, one.seed,
        one.stop_ids, pages_of(one.self_pages), pages_of(one.cross_pages), one.cross_len, one.sees,
    )  # fmt: skip
