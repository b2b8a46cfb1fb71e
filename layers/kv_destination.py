"""Where the keys and values of a step's tokens go."""

import msgspec
import torch


class KVDestination(msgspec.Struct, frozen=True):
    """One layer's pages, and the positions in them of a step's tokens."""

    k_pages: torch.Tensor  # [positions, kv_heads, head_dim]: pages one after the other
    v_pages: torch.Tensor  # the same
    slot_mapping: torch.Tensor  # [tokens] int32 = page * page_size + offset in the page

    @property
    def head_dim(self) -> int:
        return self.k_pages.shape[2]

    @property
    def width(self) -> int:
        """Features of a token's keys, and of its values."""
        return self.k_pages.shape[1] * self.head_dim

    def write(self, k: torch.Tensor, v: torch.Tensor) -> None:
        """Writes `k`, `v` [tokens, kv_heads, head_dim], rows contiguous, in one launch on a GPU.

        float8 pages saturate: what lies beyond the largest number becomes that number.
        """
        if k.device.type == "cuda":
            from antiphon.kernels.page_write import write_pages  # Triton exists where CUDA does

            return write_pages(k, v, self.k_pages, self.v_pages, self.slot_mapping)
        write_in_torch(self.k_pages, self.slot_mapping, k)
        write_in_torch(self.v_pages, self.slot_mapping, v)


def write_in_torch(pages: torch.Tensor, slot_mapping: torch.Tensor, rows: torch.Tensor) -> None:
    """Writes `rows` [tokens, ...] at `slot_mapping` [tokens] of `pages` [positions, ...]."""
    if pages.dtype.itemsize == 1:
        largest = torch.finfo(pages.dtype).max
        saturated = rows.clamp(-largest, largest).to(pages.dtype)
        pages.view(torch.uint8)[slot_mapping] = saturated.view(torch.uint8)
    else:
        pages.index_copy_(0, slot_mapping.long(), rows.to(pages.dtype))
