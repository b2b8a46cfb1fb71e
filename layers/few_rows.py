"""Prepares a decoder's layers for steps of few sequences on a GPU: see `kernels/few_rows_linear.py`."""

import torch
from torch import nn

from antiphon.layers.eight_bit import Float8Weight
from antiphon.layers.linear import Linear
from antiphon.layers.norms import LayerNorm, RMSNorm


def fuse_few_rows(layers: nn.Module) -> None:
    """Linear layers in half precision take few rows through one kernel each, with the norm before them and the sum behind."""
    from antiphon.kernels.few_rows_linear import fits  # Triton is there where CUDA is

    for each in layers.modules():
        if isinstance(each, Linear) and not isinstance(each.weight, Float8Weight):
            each.fuses_few_rows = each.dtype in (torch.float16, torch.bfloat16) and fits(
                *each.shape[::-1]
            )
        elif isinstance(each, LayerNorm | RMSNorm):
            each.deferred = True
