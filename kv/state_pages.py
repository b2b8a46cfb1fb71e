"""Hidden states in pages, where cross-attention reads them in place of keys and values."""

import torch

from antiphon.kv.zeros import zeros
from antiphon.layers.kv_destination import write_in_torch


class StatePages:
    """`pages` [pages, page_size, hidden]: states of encoder inputs, once for all layers. Their page
    ids are a numbering of their own, apart from those of keys and values.

    Float8 pages hold the states times `factor`, a power of two that keeps them in range. Who reads
    them undoes it in weights (`AbsorbedProjections.read_scaled`).
    """

    def __init__(
        self,
        num_pages: int,
        page_size: int,
        hidden_size: int,
        dtype: torch.dtype,
        device: torch.device,
        factor: float = 1.0,
    ) -> None:
        self.factor = factor
        self.num_pages = self.scratch_page = num_pages  # the last one is of no sequence
        self.pages = zeros((num_pages + 1, page_size, hidden_size), dtype, device)

    @staticmethod
    def bytes_per_page(page_size: int, hidden_size: int, dtype: torch.dtype) -> int:
        return page_size * hidden_size * dtype.itemsize

    @property
    def heads(self) -> torch.Tensor:
        """[pages, page_size, 1, hidden]: the one head of keys, and of values, that attention
        sees."""
        return self.pages.unsqueeze(2)

    def write(self, slot_mapping: torch.Tensor, states: torch.Tensor) -> None:
        """Writes `states` [tokens, hidden] at `slot_mapping` [tokens] int32 = page * page_size +
        offset in the page."""
        scaled = states if self.factor == 1 else states * self.factor
        write_in_torch(self.pages.flatten(0, 1), slot_mapping, scaled)

    def read(self, rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """What is stored [tokens, hidden] at `rows` [tokens] int64 = page * page_size + offset."""
        stored = self.pages.flatten(0, 1)
        raw = stored.view(torch.uint8).view(*stored.shape, -1)  # float8 is indexed by its bytes
        return raw.index_select(0, rows).flatten(1).view(stored.dtype).to(dtype)
