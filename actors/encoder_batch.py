"""A batch of jobs on an encoder's device, and what becomes of it for each decoder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from antiphon.actors.messages import EncodeJob
from antiphon.encoder.runner import Encoded
from antiphon.kv.batch_share import OwnShare, SharedBatch
from antiphon.kv.handoff import HiddenStates
from antiphon.kv.transports.interface import Transport
from antiphon.runtime.device import recorded_event


@dataclass(frozen=True)
class EncoderBatch:
    """`ready`: recorded behind its forward; None on a CPU. `pooled` [jobs, size]: an embedding of
    each input, where any job wants that."""

    jobs: list[EncodeJob]
    encoded: Encoded
    ready: torch.cuda.Event | None
    pooled: torch.Tensor | None = None

    @property
    def decoders(self) -> list[str]:
        """The names of those that want some of it."""
        return list(dict.fromkeys(job.decoder for job in self.jobs))

    def states(self, rows: Sequence[int]) -> HiddenStates:
        """The hidden states of some jobs, by their numbers: the batch itself if these are all."""
        encoded, packed, ready = self.encoded, self.encoded.hidden, self.ready
        if len(rows) < len(self.jobs):
            hidden = packed.split(encoded.lengths)
            packed = torch.cat([hidden[row] for row in rows])
            ready = recorded_event(packed.device)  # `ready` was recorded before this copy
        keys = tuple(self.jobs[row].key for row in rows)
        return HiddenStates(keys, tuple(encoded.lengths[row] for row in rows), packed, ready)

    def embeddings(self, rows: Sequence[int]) -> HiddenStates:
        """Those of some jobs that want them, one each."""
        assert self.pooled is not None
        keys, packed = tuple(self.jobs[row].key for row in rows), self.pooled[list(rows)]
        return HiddenStates(keys, (1,) * len(keys), packed, recorded_event(packed.device))

    def shared(
        self, number: int, decoder: str, completed: Callable[["EncoderBatch"], None]
    ) -> SharedBatch:
        """Where each rank has a share of it, for the decoder beside this encoder. `number`: of such
        batches. `completed`: takes what others want of it, in the decoder's thread."""
        encoded, is_own = self.encoded, [job.decoder == decoder for job in self.jobs]
        keys = tuple(job.key if own else "" for job, own in zip(self.jobs, is_own, strict=True))
        share = OwnShare(number, encoded.hidden, self.ready)

        def complete(packed: torch.Tensor) -> None:
            completed(self._whole(packed).of([row for row, own in enumerate(is_own) if not own]))

        return SharedBatch(
            keys,
            tuple(encoded.lengths),
            encoded.shares,
            share,
            None if all(is_own) else complete,
        )

    def _whole(self, packed: torch.Tensor) -> "EncoderBatch":
        """The batch with the shares of all ranks, [sum of lengths, hidden]."""
        encoded = Encoded(self.encoded.lengths, packed)
        return replace(self, encoded=encoded, ready=recorded_event(packed.device))

    def of(self, rows: Sequence[int]) -> "EncoderBatch":
        """Some of its jobs, by their numbers, as a batch."""
        states = self.states(rows)
        encoded = Encoded(list(states.lengths), states.packed)
        return EncoderBatch([self.jobs[row] for row in rows], encoded, states.ready)


@dataclass(frozen=True)
class LaunchedBatch:
    """A batch on the device. `began`: when it was queued, in seconds of the monotonic clock; None
    if it was counted before. `transports`: have queued something behind its forward. `done`:
    recorded behind that; None on a CPU."""

    batch: EncoderBatch
    began: float | None
    transports: list[Transport]
    done: torch.cuda.Event | None
