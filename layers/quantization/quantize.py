"""Which layers of a loaded model are quantized, and how."""

from collections.abc import Mapping

import torch
from torch import nn

from antiphon.config.errors import ConfigurationError
from antiphon.kernels.formats import FLOAT8_CAPABILITY
from antiphon.layers.activations import Activation
from antiphon.layers.linear import Linear
from antiphon.layers.norms import Norm
from antiphon.layers.quantization.float8 import (
    Float8Activation,
    Float8Norm,
    Float8Product,
    to_float8,
)
from antiphon.layers.quantization.int8 import to_int8
from antiphon.runtime.device import Target

MULTIPLE = 16  # of both sides of a float8 matrix product on a GPU


def check_quantization(quantization: str, target: Target) -> None:
    """Raises ConfigurationError where this device can't; before any weight is loaded."""
    if quantization != "fp8" or target.device.type != "cuda":
        return
    capability = torch.cuda.get_device_capability(target.device)
    if capability < FLOAT8_CAPABILITY:
        raise ConfigurationError(
            f"quantization='fp8' needs compute capability {FLOAT8_CAPABILITY}, "
            f"this device has {capability}: 'int8' runs anywhere"
        )
    if target.dtype != torch.bfloat16:
        raise ConfigurationError(
            "quantization='fp8' needs dtype='bfloat16' on a GPU, "
            f"not {str(target.dtype).removeprefix('torch.')}"
        )


def quantize_encoder(quantization: str, layers: nn.Module, pre_norm: bool) -> None:
    """Every linear layer of the blocks; convolutions and embeddings stay as they are."""
    if quantization == "int8":
        quantize_to_int8(layers)
    elif quantization == "fp8":
        quantize_to_float8(_linear_layers(layers))
        feed_float8(layers, pre_norm)


def feed_float8(layers: nn.Module, pre_norm: bool) -> None:
    """On a GPU: norms and activations of an encoder store float8 rows themselves, where all linear
    layers read them."""
    methods = {type(layer.own_method) for layer in _linear_layers(layers).values()}
    if methods != {Float8Product}:
        return
    for module in layers.modules():
        if pre_norm and isinstance(module, Norm):
            module.method = Float8Norm()
        elif isinstance(module, Activation):
            module.method = Float8Activation()


def quantize_decoder(
    quantization: str, layers: nn.Module, cross_projections: Mapping[str, Linear]
) -> None:
    """int8: every linear layer of the blocks, not the vocabulary's. fp8: `cross_projections` only.

    Those are the projections that write cross KV, by name; they see whole inputs. A
    decode step has one token per sequence, for which float8 products were measured to
    be slower than bfloat16 ones (8.8 against 5.5 us on an H200).
    """
    if quantization == "int8":
        quantize_to_int8(layers)
    elif quantization == "fp8":
        quantize_to_float8(cross_projections)


def quantize_to_float8(linear: Mapping[str, Linear]) -> None:
    """`linear` by name. Raises ConfigurationError for a size that float8 products can't have on a
    GPU."""
    on_gpu = any(layer.device.type == "cuda" for layer in linear.values())
    for name, layer in linear.items():
        if on_gpu and any(size % MULTIPLE for size in layer.shape):
            raise ConfigurationError(
                f"quantization='fp8': layer {name} is {list(layer.shape)}; "
                f"both must be multiples of {MULTIPLE}"
            )
        to_float8(layer)


def quantize_to_int8(layers: nn.Module) -> None:
    """Every linear layer among `layers`."""
    for layer in _linear_layers(layers).values():
        to_int8(layer)


def _linear_layers(layers: nn.Module) -> dict[str, Linear]:
    return {name: module for name, module in layers.named_modules() if isinstance(module, Linear)}
