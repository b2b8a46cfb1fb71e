"""Feed-forward layers of a width that GPUs multiply slowly are made wider by zeros.

Rows of a matrix that are no whole multiples of 16 bytes leave cuBLAS slow kernels only, and float8
products can't have them: Qwen2.5-VL's 3420 features, or one rank's share of them. A feature of
zeros is 0 behind its activation, with a gate too, and meets zeros in the layer behind it: results
stay the same.
"""

from collections.abc import Iterator
from typing import Protocol

from torch import nn
from torch.nn import functional as F

from antiphon.config.arithmetic import ceil_div
from antiphon.layers.activations import Activation
from antiphon.layers.linear import Linear, StackedLinear
from antiphon.layers.shard import FEATURES_MULTIPLE, Span
from antiphon.runtime.device import Target

PADDED_MULTIPLE = 64  # inputs that tensor cores take at once: whole tiles


class HasModules(Protocol):
    def modules(self) -> Iterator[nn.Module]: ...


def pad_features(model: HasModules, target: Target) -> None:
    """On a GPU: every feed-forward layer of `model` whose width is no multiple of 16. Before its
    layers are quantized.

    Weights of quantised checkpoints stay as wide as they are: groups of inputs have scales, and
    the kernels that read them take any width.
    """
    if target.device.type != "cuda":
        return
    for module in model.modules():
        pair = around_activation(module)
        if pair is not None and all(_is_plain(layer) for layer in pair):
            _pad(*pair)


def around_activation(module: nn.Module) -> tuple[Linear, Linear] | None:
    """The layers before and behind the activation of a feed-forward layer, which are all the linear
    layers that it has beside its activation; None for other modules."""
    children = list(module.children())
    linear = [child for child in children if isinstance(child, Linear)]
    if len(linear) != 2 or not any(isinstance(child, Activation) for child in children):
        return None
    wide, narrow = linear
    # One part for each input, or several: a gate is one.
    return None if wide.outputs.count % narrow.inputs.count else (wide, narrow)


def _is_plain(layer: Linear) -> bool:
    """Its weight is plain numbers."""
    is_apart = isinstance(layer, StackedLinear) and len(layer.apart) > 0
    return layer.quantized is None and not is_apart


def _pad(wide: Linear, narrow: Linear) -> None:
    width = narrow.inputs.count
    parts = wide.outputs.count // width
    if width % FEATURES_MULTIPLE == 0:
        return
    padded = ceil_div(width, PADDED_MULTIPLE) * PADDED_MULTIPLE
    wide.weight = _with_zeros(wide.weight, (parts, width, -1), padded)
    if wide.bias is not None:
        wide.bias = _with_zeros(wide.bias, (parts, width), padded)
    if isinstance(wide, StackedLinear):
        wide.parts = dict.fromkeys(wide.parts, padded)
        wide.spans = dict.fromkeys(wide.spans, Span.whole(padded))
    wide.outputs = Span.whole(parts * padded)
    narrow.weight = nn.Parameter(
        F.pad(narrow.weight.data, (0, padded - width)), requires_grad=False
    )
    narrow.inputs = Span.whole(padded)


def _with_zeros(tensor: nn.Parameter, shape: tuple[int, ...], padded: int) -> nn.Parameter:
    """`tensor` seen as `shape` [parts, width, ...], each part `padded` wide, parts stacked."""
    parts = tensor.data.view(shape)
    behind = (0, 0) * (len(shape) - 2) + (0, padded - shape[1])
    return nn.Parameter(F.pad(parts, behind).flatten(0, 1), requires_grad=False)
