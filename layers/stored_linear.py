"""Linear layers that checkpoints store in another form than they are computed in."""

from collections.abc import Mapping

import torch

from antiphon.layers.linear import Linear, StackedLinear
from antiphon.layers.quantization.quantized_weight import QuantizedWeight
from antiphon.layers.reading import Read
from antiphon.layers.shard import Heads, Span, whole


class PackedLinear(StackedLinear):
    """Stacked projections that are stored as one tensor, in the order of `parts`: its
    rows are those of the first part, of all ranks, then those of the second."""

    def source(self, path: str, part: str) -> tuple[str, Span]:
        totals = {name: span.total for name, span in self.spans.items()}
        before = list(totals)[: list(totals).index(part)]
        span, first = self.spans[part], sum(totals[name] for name in before)
        return path, Span(first + span.first, span.count, sum(totals.values()))


class ScaledLinear(Linear):
    """A projection with a learned factor for each of its outputs, `scale` [out] (layer
    scale, Touvron et al. 2021): the weight and the bias are multiplied by it once, as
    they are loaded."""

    def load(self, path: str, read: Read) -> None:
        scale = self.stored_scale(path, read)
        weight = read.weight(f"{path}.weight", (self.outputs, self.inputs))
        if isinstance(weight, QuantizedWeight):
            self.fill(weight.scaled(scale))
        else:
            self.fill(weight.float() * scale[:, None])
        if self.bias is not None:
            self.bias.copy_(read(f"{path}.bias", (self.outputs,)).float() * scale)

    def stored_scale(self, path: str, read: Read) -> torch.Tensor:
        """[out] or [1] float32"""
        return read(f"{path}.scale", (self.outputs,)).float()


class GatedLinear(ScaledLinear):
    """A projection behind a learned gate, `gate` [1], whose tanh is the factor of all."""

    def stored_scale(self, path: str, read: Read) -> torch.Tensor:
        return read(f"{path}.gate", whole(1)).float().tanh()


class PatchLinear(Linear):
    """A convolution whose kernel covers each patch once, as a product with flattened patches.

    `kernel`: sizes of a patch, channels first; a checkpoint stores the weight as [out, *kernel].
    """

    def __init__(self, kernel: tuple[int, ...], out_features: int, bias: bool) -> None:
        super().__init__(torch.Size(kernel).numel(), out_features, bias)
        self.kernel = kernel

    def load(self, path: str, read: Read) -> None:
        out = self.outputs.count
        self.fill(read(f"{path}.weight", whole(out, *self.kernel)).flatten(1))
        if self.bias is not None:
            self.bias.copy_(read(f"{path}.bias", whole(out)))


class InterleavedLinear(StackedLinear):
    """Queries, keys and values whose rotary positions turn features 2i and 2i + 1 of the first
    `turned` of each head. Of queries and keys, rows are put into the order that `Rotation` turns:
    all first coordinates, then all second ones. Their products stay the same."""

    def __init__(
        self,
        in_features: int,
        parts: Mapping[str, int | Span],
        bias: bool,
        heads: Heads,
        turned: int,
    ) -> None:
        super().__init__(in_features, parts, bias)
        planes = [*range(0, turned, 2), *range(1, turned, 2)]
        self.in_head = [*planes, *range(turned, heads.dim)]

    def order(self, part: str) -> torch.Tensor | None:
        if part == list(self.parts)[-1]:  # values
            return None
        size = len(self.in_head)
        heads = torch.arange(0, self.parts[part], size)
        return (heads[:, None] + torch.tensor(self.in_head)).flatten()
