"""Log-probabilities of the tokens of a step, under the model's raw distribution."""

from dataclasses import dataclass

import numpy as np
import torch

from antiphon.decoder.sampling.rows import SampledRows
from antiphon.decoder.sampling.settings import OFF
from antiphon.runtime.device import to_device
from antiphon.scheduler.plan import Logprobs


@dataclass(frozen=True)
class DeviceLogprobs:
    """As `scheduler.plan.Logprobs`, on the device or on its way to the host."""

    rows: np.ndarray  # [asking] indices into the step's rows
    chosen: torch.Tensor  # [asking]
    rank: torch.Tensor  # [asking]
    top_ids: torch.Tensor  # [asking, k]
    top: torch.Tensor  # [asking, k]

    def start_copy(self) -> "DeviceLogprobs":
        """A copy on the host, complete when the device has come so far."""
        parts = (self.chosen, self.rank, self.top_ids, self.top)
        return DeviceLogprobs(self.rows, *(part.to("cpu", non_blocking=True) for part in parts))

    def on_host(self) -> Logprobs:
        """As arrays; of a copy that is complete."""
        parts = (self.chosen, self.rank, self.top_ids, self.top)
        return Logprobs(self.rows, *(part.numpy() for part in parts))


def compute_logprobs(raw: torch.Tensor, tokens: torch.Tensor, rows: SampledRows) -> DeviceLogprobs:
    """Of the chosen `tokens` [rows] and the likeliest ones, from `raw` logits [rows, vocabulary];
    for the rows that ask, of which there is one at least."""
    counts = rows.setting_on_host("logprobs")
    asking = np.flatnonzero(counts != OFF)
    index = to_device(asking, rows.device)
    logprobs = raw[index].log_softmax(-1)
    chosen = logprobs.gather(1, tokens[index][:, None])[:, 0]
    top, ids = logprobs.topk(int(counts.max()), dim=-1)
    assert rows.slots_on_host is not None
    for i, slot in enumerate(rows.slots_on_host[asking].tolist()):
        if (named := rows.state.logprob_ids.get(slot)) is not None:  # instead of the likeliest
            values, order = logprobs[i, named].sort(descending=True)
            top[i, : len(named)], ids[i, : len(named)] = values, named[order]
    rank = (logprobs > chosen[:, None]).sum(-1) + 1
    return DeviceLogprobs(asking, chosen, rank, ids, top)
