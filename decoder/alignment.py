"""When tokens were said, from the cross-attention of the heads that follow the sound.

The queries of these heads were kept in the pages of self KV when the tokens were
computed (`kv/queries.py`). At a request's end, one product with the keys of its sound
gives the attention of all its tokens: no forward runs twice. The rest follows
openai/whisper's `timing.py`: weights are standardized over tokens, smoothed, averaged
over heads, and the best path through them says where each token begins.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from antiphon.config.options import EngineConfig
from antiphon.decoder.models.interface import DecoderModel
from antiphon.decoder.page_tables import PageTables
from antiphon.families.alignment_heads import alignment_heads
from antiphon.families.checkpoint import ModelConfig
from antiphon.kv.pool import KVPool
from antiphon.kv.queries import QueryPages
from antiphon.runtime.device import together_to_device
from antiphon.runtime.ranks import Ranks
from antiphon.scheduler.alignment import AlignedSequence

SMOOTHING = 7  # frames, where config.json has no median_filter_width
Choice = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class LaunchedAlignments:
    """Of several sequences, on their way to the host."""

    scores: list[torch.Tensor]  # [tokens, frames] float32 each, on the host once `done`
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

        return [first_columns(scores.numpy()) for scores in self.scores]


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
        self._decoder, self._pool, self._tables, self._ranks = decoder, pool, tables, ranks
        self._device = tables.device
        self._num_heads = len(alignment_heads(model))
        self._scale = model.decoder.attention_scale
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
        frames = min(SMOOTHING, self._tables.cross_pages.shape[1] * self._pool.page_size)
        self.launch([AlignedSequence(slot, np.zeros(2, np.int64), 1, frames)]).frames()

    @torch.inference_mode()
    def launch(self, sequences: Sequence[AlignedSequence]) -> LaunchedAlignments:
        """Queues the alignment of sequences that have just ended, behind all that was
        launched before. Their pages are theirs until the next step."""
        on_gpu = self._device.type == "cuda"
        scores = [self._scores(one).to("cpu", non_blocking=on_gpu) for one in sequences]
        done = torch.cuda.Event() if on_gpu else None
        if done is not None:
            done.record()
        return LaunchedAlignments(scores, done, self._ranks)

    def _scores(self, one: AlignedSequence) -> torch.Tensor:
        """[tokens, frames] float32: how much more each token attends to each frame than
        others do, the mean over all heads."""
        tokens = len(one.positions) - one.lead
        if self._pool.queries is None:
            scores = torch.zeros(tokens, one.frames, device=self._device)
        else:
            scores = self._sum_of_smoothed(salience(self.weights(one))[:, one.lead :])
        if not self._ranks.is_alone:
            scores = self._ranks.tensor.all_reduce(scores)
            scores = self._ranks.stages.all_reduce(scores)
        return scores / self._num_heads

    def _sum_of_smoothed(self, values: torch.Tensor) -> torch.Tensor:
        """Over the heads of `values` [heads, tokens, frames]."""
        if self._device.type == "cpu":
            from antiphon.kernels.cpu_smoothing import smoothed_sum

            return torch.from_numpy(smoothed_sum(values.numpy(), self._width))
        return smoothed(values, self._width).sum(0)

    def weights(self, one: AlignedSequence) -> torch.Tensor:
        """Attention [heads, rows, frames] float32 of this rank's heads to the sound."""
        queries = self._pool.queries
        assert queries is not None
        slot, frames = one.slot, np.arange(one.frames)
        rows, places = together_to_device(
            [
                self._places(self._tables.self_pages[slot], one.positions),
                self._places(self._tables.cross_pages[slot], frames),
            ],
            self._device,
        )
        asked = queries.read(rows)
        keys = self._keys(queries, places, asked.dtype)
        product = torch.matmul((asked * self._scale).transpose(0, 1), keys.permute(1, 2, 0))
        return product.float().softmax(-1)

    def _keys(self, queries: QueryPages, places: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Keys [frames, heads, head_dim] of the sound at `places` [frames], for the
        heads of `queries`; computed from hidden states, where the pages hold these."""
        if self._pool.states is None:
            return queries.keys(self._pool.layers, places, dtype)
        states = self._pool.states.read(places, dtype)
        return torch.cat(
            [
                attention.absorbed.keys_of(queries.numbers[attention.layer], states)
                for attention in self._decoder.cross_attentions
                if attention.absorbed is not None and attention.layer in queries.numbers
            ],
            dim=1,
        )

    def _places(self, pages: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Where in the pool the tokens at `positions` [n] of a sequence's `pages`
        are."""
        size = self._pool.page_size
        places: np.ndarray = pages[positions // size].astype(np.int64) * size + positions % size
        return places


def salience(weights: torch.Tensor) -> torch.Tensor:
    """By how many standard deviations each of `weights` [heads, rows, frames] differs
    from the mean of all rows; 0 where all are equal. Overwrites `weights`."""
    deviation, mean = torch.std_mean(weights, dim=-2, keepdim=True, unbiased=False)
    return weights.sub_(mean).div_(deviation).nan_to_num_(0.0, 0.0, 0.0)


def smoothed(values: torch.Tensor, width: int) -> torch.Tensor:
    """The median of every `width` (odd) of `values` [..., frames], which are mirrored
    at both ends. With too few frames to mirror, `values` stay as they are."""
    half = width // 2
    if not half or values.shape[-1] <= half:
        return values
    frames = values.shape[-1]
    padded = F.pad(values, (half, half), mode="reflect")
    windows = [padded[..., i : i + frames] for i in range(width)]
    # Among `half` + 2 values, neither the largest nor the least is the median of all. So
    # the two go, another value comes, and so on: a few passes over memory, each of them a
    # launch, where sorting takes a window at a time.
    kept, others = windows[: half + 2], windows[half + 2 :]
    while True:
        kept = _without(_without(kept, torch.maximum, torch.minimum), torch.minimum, torch.maximum)
        if not others:
            return kept[0]
        kept.append(others.pop(0))


def _without(values: list[torch.Tensor], finds: Choice, leaves: Choice) -> list[torch.Tensor]:
    """All but the one of `values` that `finds` finds, at each place: the larger of two, or
    the smaller. `leaves` gives the other one."""
    extreme, left = values[0], []
    for value in values[1:-1]:
        left.append(leaves(extreme, value))
        extreme = finds(extreme, value)
    return [*left, leaves(extreme, values[-1])]
