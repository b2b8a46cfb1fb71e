"""Random weights of a model's shapes, plain or as a quantised checkpoint has them: to measure."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from antiphon.config.arithmetic import ceil_div
from antiphon.families.quantization.scheme import EVERY, Scheme, StoredQuantization
from antiphon.kernels.formats import FLOAT8
from antiphon.layers.held_weight import weights_without_memory
from antiphon.layers.quantization.formats.scales import own_group_of, own_groups
from antiphon.layers.quantization.quantized_weight import QuantizedInput, QuantizedWeight
from antiphon.layers.reading import Weight
from antiphon.layers.shard import Span, Spans
from antiphon.layers.weights import Names, load, tensors
from antiphon.runtime.device import Target

M = TypeVar("M", bound=nn.Module)
DEVIATION = 0.02  # of a fresh model's matrices
INPUT_SCALE = 0.02  # of static schemes
# Deviations of codes that are equally likely, and of float8 numbers as they are made here.
CODES = {4: (16**2 / 12) ** 0.5, 8: (256**2 / 12) ** 0.5}


def build_randomly(
    target: Target,
    make: Callable[[], M],
    quantization: StoredQuantization | None,
    names: Names,
) -> M:
    """The module that `make` builds, filled with random weights: with `quantization` in the form in
    which its checkpoint has them. `names(path)`: the checkpoint's for the tensor at `path`."""
    if quantization is None:
        module = target.build(make)
        fill_randomly(module)
        return module
    with weights_without_memory():
        module = target.build(make)
    with torch.no_grad():
        load(module, _Random(target, quantization, names))
    return module


def fill_randomly(module: nn.Module) -> None:
    """Weights like a fresh model's.

    Matrices are normal with deviation 0.02, gains of norms are 1, biases 0. The same
    numbers at the same path, so that ranks agree on what each of them holds in whole.
    """
    for path, target in tensors(module):
        _fill(path, target.data)


def _fill(path: str, tensor: torch.Tensor) -> None:
    if tensor.ndim > 1:
        tensor.normal_(std=DEVIATION, generator=_generator(path, tensor.device))
    else:
        tensor.fill_(1.0 if "norm" in path and path.endswith("weight") else 0.0)


def _generator(path: str, device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(zlib.crc32(path.encode()))


@dataclass(frozen=True)
class _Random:
    """`Read`s random numbers where a checkpoint would give its own."""

    target: Target
    quantization: StoredQuantization
    names: Names

    def __call__(self, path: str, spans: Spans) -> torch.Tensor:
        sizes = [span.count for span in spans]
        tensor = torch.empty(sizes, dtype=self.target.dtype, device=self.target.device)
        if path.endswith((".scale", ".gate")):  # factors of a whole layer
            return tensor.fill_(1.0)
        _fill(path, tensor)
        return tensor

    def weight(self, path: str, spans: Spans) -> Weight:
        layer = self.names(path)[0].removesuffix(".weight")
        if self.quantization.keeps_out(layer):
            return self(path, spans)
        scheme = self.quantization.scheme_of(layer)
        outputs, inputs = spans
        return _random_weight(scheme, outputs, inputs, _generator(path, self.target.device))


def _random_weight(
    scheme: Scheme, outputs: Span, inputs: Span, generator: torch.Generator
) -> QuantizedWeight:
    """Numbers with a fresh model's deviation, and one scale for all."""
    weights, device = scheme.weights, generator.device
    group = weights.block[1]
    groups = len(range(inputs.total)[own_groups(inputs, group)]) if group != EVERY else 1
    size, zeros, deviation = (outputs.count, inputs.count), None, 1.0
    if weights.kind == "float":
        values = torch.randn(size, generator=generator, device=device).to(FLOAT8)
    else:
        deviation = CODES[weights.bits]
        stored = (size[0], ceil_div(size[1], 2)) if weights.bits == 4 else size
        values = torch.randint(256, stored, generator=generator, dtype=torch.uint8, device=device)
        if weights.bits == 8:
            values = values.view(torch.int8)
        if not weights.symmetric:
            zero = 8 if weights.bits == 4 else 0
            zeros = torch.full((size[0], groups), zero, dtype=torch.int8, device=device)
    scales = torch.full((size[0], groups), DEVIATION / deviation, device=device)
    if weights.block[0] == 1:  # blocks of rows have scales of full precision
        scales = scales.bfloat16()
    return QuantizedWeight(
        values, scales, zeros, group, own_group_of(inputs, group), inputs=_input(scheme, device)
    )


def _input(scheme: Scheme, device: torch.device) -> QuantizedInput | None:
    if scheme.inputs is None or scheme.inputs.dynamic:
        return None if scheme.inputs is None else QuantizedInput(scheme.inputs)
    scale = torch.full((1,), INPUT_SCALE, device=device)
    zero = None if scheme.inputs.symmetric else torch.zeros(1, device=device)
    return QuantizedInput(scheme.inputs, scale, zero)
