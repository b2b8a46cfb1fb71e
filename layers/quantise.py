"""Turns a loaded model's linear layers into quantised ones: which, and in what format."""

from collections.abc import Sequence

import torch
from torch import nn

from antiphon.config.errors import ConfigurationError
from antiphon.kernels.formats import FLOAT8_CAPABILITY
from antiphon.layers.eight_bit import Float8Weight, Int8Weight
from antiphon.layers.linear import Activation, Linear
from antiphon.layers.norms import LayerNorm, RMSNorm
from antiphon.runtime.device import Target

MULTIPLE = 16  # of both sides of a float8 matrix product on a GPU


def check(quantization: str, target: Target) -> None:
    """Raises ConfigurationError where this device can't; before any weight is loaded."""
    if quantization != "fp8" or target.device.type != "cuda":
        return
    capability = torch.cuda.get_device_capability(target.device)
    if capability < FLOAT8_CAPABILITY:
        raise ConfigurationError(
            f"quantization='fp8' needs compute capability {FLOAT8_CAPABILITY}, this device has {capability}: 'int8' runs anywhere"
        )
    if target.dtype != torch.bfloat16:
        raise ConfigurationError(
            f"quantization='fp8' needs dtype='bfloat16' on a GPU, not {str(target.dtype).removeprefix('torch.')}"
        )


def quantise_encoder(quantization: str, layers: nn.Module, pre_norm: bool) -> None:
    """Every linear layer of the blocks; convolutions and embeddings stay as they are."""
    if quantization == "int8":
        to_int8(layers)
    elif quantization == "fp8":
        named = dict(layers.named_modules())
        feeders = [
            each
            for each in named.values()
            if isinstance(each, Activation) or (pre_norm and isinstance(each, LayerNorm | RMSNorm))
        ]
        to_float8({name: each for name, each in named.items() if isinstance(each, Linear)}, feeders)


def quantise_decoder(
    quantization: str, layers: nn.Module, cross_writers: Sequence[nn.Module]
) -> None:
    """int8: every linear layer of the blocks, not the vocabulary's. fp8: only the projections that write cross KV, which see whole
    inputs. A decode step has one token a sequence, for which float8 products were measured to be slower than bfloat16 ones (8.8
    against 5.5 us on an H200)."""
    if quantization == "int8":
        to_int8(layers)
    elif quantization == "fp8":
        named = {
            f"{i}.{name}": each
            for i, writer in enumerate(cross_writers)
            for name, each in writer.named_modules()
        }
        to_float8(
            {
                name: each
                for name, each in named.items()
                if isinstance(each, Linear) and name.endswith(".kv")
            },
            [],
        )


def to_float8(linear: dict[str, Linear], feeders: Sequence[nn.Module]) -> None:
    """`linear` by name; `feeders` are norms and activations whose output goes into them alone, and then is float8 already.

    Raises ConfigurationError for a size that float8 products can't have.
    """
    on_gpu = any(layer.device.type == "cuda" for layer in linear.values())
    for name, layer in linear.items():
        if on_gpu and any(size % MULTIPLE for size in layer.shape):
            raise ConfigurationError(
                f"quantization='fp8': layer {name} is {list(layer.shape)}; both must be multiples of {MULTIPLE}"
            )
        layer.quantise(Float8Weight)
    for feeder in feeders:
        assert isinstance(feeder, Activation | LayerNorm | RMSNorm)
        feeder.quantises = on_gpu


def to_int8(layers: nn.Module) -> None:
    for each in layers.modules():
        if isinstance(each, Linear):
            each.quantise(Int8Weight)
