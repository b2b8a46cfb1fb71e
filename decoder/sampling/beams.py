"""The tokens that sequences of beam searches may go on with; the host chooses."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from antiphon.decoder.sampling.restrictions import forced_tokens
from antiphon.decoder.sampling.rows import SampledRows
from antiphon.decoder.sampling.settings import OFF
from antiphon.runtime.device import to_device
from antiphon.scheduler.beam_plan import BeamCandidates

MINUS_INF = float("-inf")
Rules = Callable[[torch.Tensor], torch.Tensor]  # scores [rows, vocabulary] -> restricted scores


@dataclass(frozen=True)
class DeviceBeams:
    """As `BeamCandidates`, on the device or on its way to the host."""

    rows: np.ndarray
    ids: torch.Tensor  # int64
    scores: torch.Tensor
    logprobs: torch.Tensor
    ranks: torch.Tensor

    def start_copy(self) -> "DeviceBeams":
        """A copy on the host, complete when the device has come so far."""
        parts = (self.ids, self.scores, self.logprobs, self.ranks)
        return DeviceBeams(self.rows, *(part.to("cpu", non_blocking=True) for part in parts))

    def on_host(self) -> BeamCandidates:
        """As arrays; of a copy that is complete."""
        parts = (self.ids, self.scores, self.logprobs, self.ranks)
        return BeamCandidates(self.rows, *(part.numpy() for part in parts))


@dataclass(frozen=True)
class PackedBeams:
    """As `DeviceBeams` without ranks, as kernels write them: one copy takes all to the host."""

    rows: np.ndarray
    packed: torch.Tensor  # [rows, 3, k] int32: ids, and scores and logprobs in their bits

    def start_copy(self) -> "PackedBeams":
        return PackedBeams(self.rows, self.packed.to("cpu", non_blocking=True))

    def on_host(self) -> BeamCandidates:
        packed = self.packed.numpy()
        ids = packed[:, 0].astype(np.int64)
        scores, logprobs = packed[:, 1].view(np.float32), packed[:, 2].view(np.float32)
        return BeamCandidates(self.rows, ids, scores, logprobs, ids[:, :0])


def likeliest_candidates(
    asking: np.ndarray, logits: torch.Tensor, rows: SampledRows, ruled_by: Rules
) -> DeviceBeams:
    """Of the step's rows `asking` [n], which are `rows`, with raw `logits` [n, vocabulary]:
    from log-probabilities under the rules, and under the raw logits. Where the model
    prescribes a token, that one has 0 and all others are barred, as in transformers.

    By what rows the host knows to ask for: every pass over all words takes a device time.
    """
    logprobs = logits.log_softmax(-1)
    by_whisper = rows.setting_on_host("beams_by_whisper") > 0
    ruled = ruled_by(_of_either(by_whisper, logits, logprobs))
    renormalized = by_whisper | (rows.setting_on_host("beams_renormalized") > 0)
    if renormalized.any():
        ruled = _of_either(renormalized, ruled.log_softmax(-1), ruled)
    if any((rows.setting_on_host(name) != OFF).any() for name in ("forced_first", "forced_last")):
        prescribed, is_forced = forced_tokens(rows)
        only = torch.full_like(ruled, MINUS_INF).scatter(1, prescribed.clamp(min=0)[:, None], 0.0)
        ruled = torch.where(is_forced[:, None], only, ruled)
    count = int(rows.setting_on_host("beam_candidates").max())
    scores, ids = ruled.topk(count, dim=-1)
    chosen = logprobs.gather(1, ids)
    ranks = ids[:, :0]
    if rows.setting_on_host("ranked").any():
        ascending = logprobs.sort(-1).values
        ranks = logprobs.shape[1] - torch.searchsorted(ascending, chosen, right=True) + 1
    return DeviceBeams(asking, ids, scores, chosen, ranks)


def _of_either(is_first: np.ndarray, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Rows of `first` where `is_first` [rows], which the host knows; else those of `second`."""
    if is_first.all():
        return first
    if not is_first.any():
        return second
    return torch.where(to_device(is_first, first.device)[:, None], first, second)
