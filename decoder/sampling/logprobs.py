"""Log-probabilities of the likeliest tokens, or of named ones, under the model's raw
distribution. That of the chosen token comes with it: see `samples.py`."""

from dataclasses import dataclass

import numpy as np
import torch

from antiphon.decoder.sampling.rows import SampledRows
from antiphon.scheduler.plan import TopLogprobs


@dataclass(frozen=True)
class DeviceLogprobs:
    """As `scheduler.plan.TopLogprobs`, on the device or on its way to the host."""

    rows: np.ndarray  # [asking] indices into the step's rows
    ids: torch.Tensor  # [asking, k]
    logprobs: torch.Tensor  # [asking, k]

    def start_copy(self) -> "DeviceLogprobs":
        """A copy on the host, complete when the device has come so far."""
        parts = (part.to("cpu", non_blocking=True) for part in (self.ids, self.logprobs))
        return DeviceLogprobs(self.rows, *parts)

    def on_host(self) -> TopLogprobs:
        """As arrays; of a copy that is complete."""
        return TopLogprobs(self.rows, self.ids.numpy(), self.logprobs.numpy())


def top_logprobs(logits: torch.Tensor, asking: np.ndarray, rows: SampledRows) -> DeviceLogprobs:
    """For the step's rows `asking` [n], here `rows`, from raw `logits` [n, vocabulary].

    A row has as many as it asks for, and behind them others.
    """
    assert rows.slots_on_host is not None
    logprobs = logits.log_softmax(-1)
    count = int(rows.setting_on_host("top_logprobs").max())
    top, ids = logprobs.topk(count, dim=-1)
    for i, slot in enumerate(rows.slots_on_host.tolist()):
        if (named := rows.state.logprob_ids.get(slot)) is not None:  # instead of the likeliest
            values, order = logprobs[i, named].sort(descending=True)
            top[i, : len(named)], ids[i, : len(named)] = values, named[order]
    return DeviceLogprobs(asking, ids, top)
