"""Turns a loaded model's linear layers into quantised ones."""

import torch
from torch import nn

from antiphon.config.errors import ConfigurationError
from antiphon.layers.device import Target
from antiphon.layers.linear import Activation, Linear
from antiphon.layers.norms import LayerNorm, RMSNorm

MULTIPLE = 16  # of both sides of a float8 matrix product on a GPU
CAPABILITY = (8, 9)  # Ada; where float8 tensor cores begin


def check(quantization: str, target: Target) -> None:
    """Raises ConfigurationError where this device can't; before any weight is loaded."""
    if quantization == "none" or target.device.type != "cuda":
        return
    capability = torch.cuda.get_device_capability(target.device)
    if capability < CAPABILITY:
        raise ConfigurationError(f"quantization='fp8' needs compute capability {CAPABILITY}, this device has {capability}")
    if target.dtype != torch.bfloat16:
        raise ConfigurationError(
            f"quantization='fp8' needs dtype='bfloat16' on a GPU, not {str(target.dtype).removeprefix('torch.')}"
        )


def quantise(layers: nn.Module, pre_norm: bool) -> None:
    """Every linear layer inside `layers`, the blocks of an encoder or decoder.

    Whatever feeds them alone then makes float8 itself: activations, and with `pre_norm` the norms. Embeddings, convolutions and
    the head stay as they are. Raises ConfigurationError for a size that float8 products can't have.
    """
    on_gpu = next(layers.parameters()).device.type == "cuda"
    for path, child in layers.named_modules():
        if isinstance(child, Linear):
            if on_gpu and any(size % MULTIPLE for size in child.weight.shape):
                raise ConfigurationError(
                    f"quantization='fp8': layer {path} is {list(child.weight.shape)}; both must be multiples of {MULTIPLE}"
                )
            child.quantise()
        elif isinstance(child, Activation) or (pre_norm and isinstance(child, LayerNorm | RMSNorm)):
            child.quantises = on_gpu
