"""When tokens were said, from the cross-attention of the heads that follow the sound.

The queries of these heads were kept in the pages of self KV when the tokens were
computed (`kv/queries.py`). At a request's end, one product with the keys of its sound
gives the attention of all its tokens: no forward runs twice. The rest follows
openai/whisper's `timing.py`: weights are standardized over tokens, smoothed, averaged
over heads, and the best path through them says where each token begins. On GPUs a few
kernels do it for all requests that end in a step (`kernels/alignment.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from antiphon.config.options import EngineConfig
from antiphon.decoder.aligned_heads import AlignedHeads, with_rows
from antiphon.decoder.models.interface import DecoderModel
from antiphon.decoder.page_tables import PageTables
from antiphon.families.alignment_heads import alignment_heads
from antiphon.families.checkpoint import ModelConfig
from antiphon.kv.pool import KVPool
from antiphon.runtime.ranks import Ranks
from antiphon.scheduler.alignment import AlignedSequence

SMOOTHING = 7  # frames, where config.json has no median_filter_width


@dataclass(frozen=True)
class LaunchedAlignments:
    """Of several `sequences`, on their way to the host.

    `scores` [all rows, frames] float32: those of each sequence's rows behind those of the one
    before; complete once `done`.
    """

    sequences: Sequence[AlignedSequence]
    scores: torch.Tensor
    done: torch.cuda.Event | None  # None where the device is the host
    ranks: Ranks

    @property
    def ready(self) -> bool:
        return self.done is None or self.done.query()

    def frames(self) -> list[np.ndarray]:
        """For each sequence, the frames [tokens] at which its tokens begin; they never
        fall. Waits for the device. Raises RankError if other ranks take too long."""
        if self.done is not None:
            self.ranks.limit.wait(self.done, "an alignment")
        from antiphon.kernels.time_warping import first_columns  # Numba: loaded where it is used

        scores = self.scores.numpy()
        return [
            first_columns(np.ascontiguousarray(scores[start + one.lead : end, : one.frames]))
            for one, start, end in with_rows(self.sequences)
        ]


class Aligner:
    """Of one rank. All ranks make the same calls in the same order, and each gets the
    sum over the heads of all ranks."""

    def __init__(
        self,
        model: ModelConfig,
        decoder: DecoderModel,
        pool: KVPool,
        tables: PageTables,
        ranks: Ranks,
    ) -> None:
        self._tables, self._ranks, self._device = tables, ranks, tables.device
        self.heads = AlignedHeads(decoder, pool, tables, model.decoder.attention_scale)
        self._num_heads = len(alignment_heads(model))
        self._width = int(model.raw.get("median_filter_width") or SMOOTHING)
        if ranks.is_leader:
            from antiphon.kernels import time_warping

            time_warping.make_kernels_ready()
        if self._device.type == "cpu":
            from antiphon.kernels import cpu_smoothing

            cpu_smoothing.make_kernels_ready()

    @classmethod
    def of(
        cls,
        model: ModelConfig,
        config: EngineConfig,
        decoder: DecoderModel,
        pool: KVPool,
        tables: PageTables,
        ranks: Ranks,
    ) -> "Aligner | None":
        """None in families that align nothing, and where alignment is turned off."""
        is_wanted = config.decoder.enable_word_timestamps and alignment_heads(model)
        return cls(model, decoder, pool, tables, ranks) if is_wanted else None

    def warm_up(self, slot: int) -> None:
        """Loads what a device loads at first use. `slot`: of no sequence."""
        frames = min(SMOOTHING, self._tables.cross_pages.shape[1] * self.heads.page_size)
        self.launch([AlignedSequence(slot, np.zeros(2, np.int64), 1, frames)]).frames()

    @torch.inference_mode()
    def launch(self, sequences: Sequence[AlignedSequence]) -> LaunchedAlignments:
        """Queues the alignment of sequences that have just ended, behind all that was
        launched before. Their pages are theirs until the next step."""
        scores = self._shares(sequences)
        if not self._ranks.is_alone:
            scores = self._ranks.tensor.all_reduce(scores)
            scores = self._ranks.stages.all_reduce(scores)
        if self._device.type == "cpu":
            return LaunchedAlignments(sequences, scores, None, self._ranks)
        scores, done = scores.to("cpu", non_blocking=True), torch.cuda.Event()
        done.record()
        return LaunchedAlignments(sequences, scores, done, self._ranks)

    def _shares(self, sequences: Sequence[AlignedSequence]) -> torch.Tensor:
        """[all rows, frames] float32: how much more each token attends to each frame
        than others do, the sum over this rank's heads as a share of all of them."""
        queries = self.heads.queries
        if queries is not None and self._device.type == "cuda":
            return self.heads.scores(queries, sequences, self._width, 1 / self._num_heads)
        rows = sum(len(one.positions) for one in sequences)
        scores = torch.zeros(rows, max(one.frames for one in sequences), device=self._device)
        if queries is not None:
            from antiphon.kernels.cpu_smoothing import smoothed_sum

            for one, start, end in with_rows(sequences):
                values = salience(self.heads.weights(queries, one)).numpy()
                smooth = torch.from_numpy(smoothed_sum(values, self._width))
                scores[start:end, : one.frames] = smooth / self._num_heads
        return scores


def salience(weights: torch.Tensor) -> torch.Tensor:
    """By how many standard deviations each of `weights` [heads, rows, frames] differs
    from the mean of all rows; 0 where all are equal. Overwrites `weights`."""
    deviation, mean = torch.std_mean(weights, dim=-2, keepdim=True, unbiased=False)
    return weights.sub_(mean).div_(deviation).nan_to_num_(0.0, 0.0, 0.0)
