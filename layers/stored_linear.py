"""Linear layers that checkpoints store in another form than they are computed in."""

from collections.abc import Mapping

import torch

from antiphon.layers.linear import Linear, Read, StackedLinear
from antiphon.layers.shard import Heads, Span, whole


class PackedLinear(StackedLinear):
    """Stacked projections that are stored as one tensor, in the order of `parts`: its
    rows are those of the first part, of all ranks, then those of the second."""

    def load(self, path: str, read: Read) -> None:
        total, first = sum(span.total for span in self.spans.values()), 0
        for part, span in self.spans.items():
            weight, bias = self.tensors_of(part)
            rows = Span(first + span.first, span.count, total)
            weight.copy_(read(f"{path}.weight", (rows, self.inputs)))
            if bias is not None:
                bias.copy_(read(f"{path}.bias", (rows,)))
            first += span.total


class ScaledLinear(Linear):
    """A projection with a learned factor for each of its outputs, `scale` [out] (layer
    scale, Touvron et al. 2021): the weight and the bias are multiplied by it once, as
    they are loaded."""

    def load(self, path: str, read: Read) -> None:
        scale = self.stored_scale(path, read)
        weight = read(f"{path}.weight", (self.outputs, self.inputs))
        self.weight.copy_(weight.float() * scale[:, None])
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
        out = self.weight.shape[0]
        self.weight.copy_(read(f"{path}.weight", whole(out, *self.kernel)).flatten(1))
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
        self.order = [*planes, *range(turned, heads.dim)]

    def load(self, path: str, read: Read) -> None:
        super().load(path, read)
        for part in list(self.parts)[:2]:
            for tensor in self.tensors_of(part):
                if tensor is not None:
                    by_head = tensor.unflatten(0, (-1, len(self.order)))
                    tensor.copy_(by_head[:, self.order].flatten(0, 1))
