"""Queries that are kept beside the keys and values of the same tokens.

Some heads of a Whisper's cross-attention follow the sound. What their queries of each token ask of
the encoder's states tells when it was said (`decoder/alignment.py`). Kept in the pages of self KV,
they are shared, copied and computed anew with it: by forks, and after a preemption.
"""

from collections.abc import Mapping, Sequence

import torch

from antiphon.kv.zeros import zeros


class QueryPages:
    """`pages` [pages, page_size, heads, head_dim]: queries of `heads`, numbers of heads by layer,
    in the order of the layers. `numbers`: the same on the device, where graphs read them."""

    def __init__(
        self,
        heads: Mapping[int, Sequence[int]],
        heads_of_layer: int,
        shape: tuple[int, int, int],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """`heads_of_layer`: that there are. `shape`: pages, page size, head_dim."""
        num_pages, page_size, head_dim = shape
        self.heads = {layer: list(heads[layer]) for layer in sorted(heads)}
        self.pages = zeros((num_pages, page_size, self.num_heads, head_dim), dtype, device)
        self.numbers = {
            layer: torch.tensor(numbers, device=device) for layer, numbers in self.heads.items()
        }
        wanted = [
            i * heads_of_layer + number
            for i, numbers in enumerate(self.heads.values())
            for number in numbers
        ]
        self._wanted = torch.tensor(wanted, device=device)  # among the heads of these layers
        self._wants_all = wanted == list(range(len(self.heads) * heads_of_layer))

    @staticmethod
    def bytes_per_page(page_size: int, num_heads: int, head_dim: int, dtype: torch.dtype) -> int:
        return page_size * num_heads * head_dim * dtype.itemsize

    @property
    def num_heads(self) -> int:
        return sum(map(len, self.heads.values()))

    def write(self, slot_mapping: torch.Tensor, queries: Mapping[int, torch.Tensor]) -> None:
        """Keeps what is wanted of the `queries` [tokens, heads, head_dim] of each layer.

        `slot_mapping` [tokens] int32 = page * page_size + offset in the page, of self KV. All
        layers at once: three small kernels for each were 7 % of a step of one sequence. Nothing is
        kept where not all of them ran: while kernels are compiled (`only_typical_layers`).
        """
        if not queries.keys() >= self.heads.keys():
            return
        together = torch.cat([queries[layer] for layer in self.heads], dim=1)
        if not self._wants_all:
            together = together.index_select(1, self._wanted)
        self.pages.flatten(0, 1).index_copy_(0, slot_mapping.long(), together)

    def read(self, rows: torch.Tensor) -> torch.Tensor:
        """Queries [tokens, heads, head_dim] of tokens at `rows` [tokens] int64 = page * page_size +
        offset."""
        return self.pages.flatten(0, 1).index_select(0, rows)

    def keys(
        self, layers: Sequence[torch.Tensor], rows: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor:
        """Keys [tokens, heads, head_dim] that the same heads have at `rows` [tokens] of `layers`,
        each [2, pages, page_size, kv_heads, head_dim], whatever dtype they are kept in."""
        parts = []
        for layer, numbers in self.numbers.items():
            stored = layers[layer][0].flatten(0, 1)
            is_float8 = stored.dtype.itemsize == 1  # which can be indexed by its bytes alone
            raw = stored.view(torch.uint8) if is_float8 else stored
            chosen = raw.index_select(0, rows).index_select(1, numbers)
            parts.append(chosen.view(stored.dtype).to(dtype))
        return torch.cat(parts, dim=1)
