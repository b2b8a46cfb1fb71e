"""Prepares a decoder's layers for steps of few sequences on a GPU: see `layers/triton_linear.py`."""

import torch
from torch import nn

from antiphon.layers.linear import Linear
from antiphon.layers.norms import LayerNorm, RMSNorm


def fuse_few_rows(layers: nn.Module) -> None:
    """Linear layers in half precision take few rows through one kernel each, with the norm before them and the sum behind. The
    layers must run one after the other on one stream: they share what split products leave for each other."""
    from antiphon.layers.triton_linear import Workspace, fits  # Triton is there where CUDA is

    linears = [each for each in layers.modules() if isinstance(each, Linear) and each.weight_scales is None]
    linears = [each for each in linears if each.weight.dtype in (torch.float16, torch.bfloat16) and fits(*each.weight.shape[::-1])]
    if not linears:
        return
    workspace = Workspace(max(len(each.weight) for each in linears), linears[0].weight.device)
    for each in linears:
        each.workspace = workspace
    for norm in layers.modules():
        if isinstance(norm, LayerNorm | RMSNorm):
            norm.deferred = True
