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
    """`done`: recorded behind its forward; None on a CPU. `pooled` [jobs, size]: an embedding of
    each input, where any job wants that."""

    jobs: list[EncodeJob]
    encoded: Encoded
    done: torch.cuda.Event | None
    pooled: torch.Tensor | None = None

    @property
    def decoders(self) -> list[str]:
        """The names of those that want some of it."""
        return list(dict.fromkeys(job.decoder for job in self.jobs))

    def answers_for(self, decoder: str) -> list[HiddenStates]:
        """What one decoder or frontend wants: hidden states and embeddings."""
        own = [row for row, job in enumerate(self.jobs) if job.decoder == decoder]
        pooled = [row for row in own if self.jobs[row].pooled]
        whole = [row for row in own if not self.jobs[row].pooled]
        answers = [self._hidden(whole)] if whole else []
        if pooled and self.pooled is not None:
            keys = tuple(self.jobs[row].key for row in pooled)
            ready = recorded_event(self.pooled.device)
            answers.append(HiddenStates(keys, (1,) * len(keys), self.pooled[pooled], ready))
        return answers

    def _hidden(self, rows: list[int]) -> HiddenStates:
        """The hidden states of these jobs: the batch itself if it is all of them."""
        encoded, packed, ready = self.encoded, self.encoded.hidden, self.done
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
