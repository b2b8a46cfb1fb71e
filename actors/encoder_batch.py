"""A batch of jobs on an encoder's device, and what becomes of it for each decoder."""

from dataclasses import dataclass

import torch

from antiphon.actors.messages import EncodeJob
from antiphon.encoder.runner import Encoded
from antiphon.kv.batch_share import OwnShare, SharedBatch
from antiphon.kv.handoff import HiddenStates
from antiphon.runtime.device import recorded_event


@dataclass(frozen=True)
class EncoderBatch:
    """`done`: recorded behind its forward; None on a CPU."""

    jobs: list[EncodeJob]
    encoded: Encoded
    done: torch.cuda.Event | None

    @property
    def decoders(self) -> list[str]:
        """The names of those that want some of it."""
        return list(dict.fromkeys(job.decoder for job in self.jobs))

    def hidden_for(self, decoder: str) -> HiddenStates:
        """The hidden states that one decoder wants: the batch itself if it wants all."""
        encoded, packed, ready = self.encoded, self.encoded.hidden, self.done
        rows = [row for row, job in enumerate(self.jobs) if job.decoder == decoder]
        if len(rows) < len(self.jobs):
            hidden = packed.split(encoded.lengths)
            packed = torch.cat([hidden[row] for row in rows])
            ready = recorded_event(packed.device)  # `done` was recorded before this copy
        keys = tuple(self.jobs[row].key for row in rows)
        lengths = tuple(encoded.lengths[row] for row in rows)
        return HiddenStates(keys, lengths, packed, ready)

    def shared(self, number: int) -> SharedBatch:
        """Where each rank has a share of it: all of it is for the decoder beside this encoder.
        `number`: of such batches."""
        keys, encoded = tuple(job.key for job in self.jobs), self.encoded
        own = OwnShare(number, encoded.hidden, self.done)
        return SharedBatch(keys, tuple(encoded.lengths), encoded.shares, own)
