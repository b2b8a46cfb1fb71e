"""The rows of one step as the rules of sampling see them."""

import msgspec
import numpy as np
import torch

from antiphon.decoder.state import Slots
from antiphon.layers.shard import Span
from antiphon.runtime.device import to_device


class SampledRows(msgspec.Struct, frozen=True):
    """Row i continues the sequence in slot `slots[i]`, which has `lengths[i]` tokens.

    Copies on the host are None inside a captured graph, whose rows change between
    replays: rules that need them run outside graphs only.
    """

    state: Slots
    words: Span  # of the vocabulary: what the logits of these rows have columns for
    slots: torch.Tensor  # [rows] int, on the device
    lengths: torch.Tensor  # [rows] int, on the device
    slots_on_host: np.ndarray | None = None
    lengths_on_host: np.ndarray | None = None

    @property
    def device(self) -> torch.device:
        return self.state.device

    @property
    def generated(self) -> torch.Tensor:
        """Tokens [rows] behind each prompt."""
        return self.lengths - self.setting("prompt_len")

    def setting(self, name: str) -> torch.Tensor:
        """[rows] on the device."""
        return self.state.on_device[name][self.slots]

    def setting_on_host(self, name: str) -> np.ndarray:
        """[rows]"""
        assert self.slots_on_host is not None
        return self.state.host[name][self.slots_on_host]

    def indices(self, chosen: np.ndarray) -> torch.Tensor:
        """Indices, on the device, of the rows for which `chosen` [rows] bool holds."""
        return to_device(np.flatnonzero(chosen), self.device)

    def history(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens [n, longest] of the n `rows`, and their lengths [n]. Tokens past a
        length are stale."""
        tokens = self.state.tokens
        longest = (
            tokens.shape[1] if self.lengths_on_host is None else int(self.lengths_on_host.max())
        )
        return tokens[self.slots[rows], :longest], self.lengths[rows]
