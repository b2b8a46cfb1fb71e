"""Ways to compute linear layers of half precision on a GPU, in the order in which they are nested.

`SmallBatch` fuses everything around the product of a few rows. Larger batches go
through cuBLAS, with the activation in its epilogue, or with the sum over many inputs
split.
"""

import torch

from antiphon.kernels.formats import OUTPUTS_TOGETHER, SMALL_BATCH
from antiphon.layers.activations import Activation
from antiphon.layers.kv_destination import KVDestination
from antiphon.layers.linear import Linear, LinearMethod, PlainProduct, StackedLinear, as_tensor
from antiphon.layers.norms import DeferredNorm, LinearInput
from antiphon.layers.quantization.rows import QuantizedRows
from antiphon.layers.residual import Residual, SplitK
from antiphon.layers.rotary import HeadNorms, Rotation

EPILOGUES = ("relu", "gelu", "gelu_tanh")  # activations that cuBLAS computes
SPLITS = 4  # parts of the sum over the inputs
MANY_INPUTS = 5120  # from which the sum is split
SPLIT_ROWS = 256  # up to which it is split: there are too few tiles of outputs to fill the device


class CublasProduct(PlainProduct):
    """Applies the activation where cuBLAS has the product in registers.

    cuBLAS's GELU is the tanh form, within 5e-4 of the exact one: less than the error of
    rounding the product to half precision first.
    """

    def activated(
        self, layer: Linear, x: LinearInput, activation: Activation
    ) -> torch.Tensor | QuantizedRows:
        if layer.bias is None or activation.kind not in EPILOGUES or activation.method.quantizes:
            return super().activated(layer, x, activation)
        gelu = activation.kind != "relu"
        return torch._addmm_activation(layer.bias, as_tensor(x), layer.weight.t(), use_gelu=gelu)


class SplitKProduct(CublasProduct):
    """Leaves the sum over the parts of the inputs to the norm that reads the stream next.

    cuBLAS would split the sum too, but needs one more kernel to add the parts up (1280
    of 5120 features, 32 rows: 9.2 us for both, 6.4 us here, on an H200).
    """

    @staticmethod
    def suits(layer: Linear) -> bool:
        """The layer has many inputs for its outputs."""
        outputs, inputs = layer.shape
        return inputs >= max(MANY_INPUTS, 2 * outputs)

    def add_to(self, layer: Linear, residual: Residual, x: LinearInput) -> Residual:
        if not isinstance(x, torch.Tensor) or not SMALL_BATCH < len(x) <= SPLIT_ROWS:
            return super().add_to(layer, residual, x)
        inputs = x.unflatten(1, (SPLITS, -1)).transpose(0, 1)  # [splits, tokens, in / splits]
        weight = layer.weight.unflatten(1, (SPLITS, -1)).permute(1, 2, 0)
        return residual.plus(SplitK(torch.bmm(inputs, weight, out_dtype=torch.float32), layer.bias))


class SmallBatch(LinearMethod):
    """Few rows in one kernel: the norm before the product, activation or residual sum behind it.

    More than SMALL_BATCH rows are left to `larger`. The weight is of half precision, or int8.
    """

    def __init__(self, larger: LinearMethod) -> None:
        self.larger = larger

    def fits(self, x: LinearInput) -> bool:
        return not isinstance(x, QuantizedRows) and len(x) <= SMALL_BATCH

    def product(self, layer: Linear, x: LinearInput) -> torch.Tensor:
        if not self.fits(x):
            return self.larger.product(layer, x)
        return _launch(layer, x)

    def activated(
        self, layer: Linear, x: LinearInput, activation: Activation
    ) -> torch.Tensor | QuantizedRows:
        if not self.fits(x):
            return self.larger.activated(layer, x, activation)
        return _launch(layer, x, activation=activation.kind)

    def add_to(self, layer: Linear, residual: Residual, x: LinearInput) -> Residual:
        if not self.fits(x):
            return self.larger.add_to(layer, residual, x)
        assert residual.pending is None, "two sublayers in a row without a norm between them"
        return Residual(_launch(layer, x, residual=residual.x))

    def queries(
        self,
        layer: StackedLinear,
        x: LinearInput,
        destination: KVDestination,
        rotation: Rotation | None = None,
        norms: HeadNorms | None = None,
    ) -> torch.Tensor:
        if not self.fits(x):
            return self.larger.queries(layer, x, destination, rotation, norms)
        # A program of the kernel has a few outputs: it sees neither both coordinates that a
        # rotation mixes, nor queries and keys at once.
        if rotation is not None or destination.width % OUTPUTS_TOGETHER:
            return super().queries(layer, x, destination, rotation, norms)
        pages = (destination.k_pages, destination.v_pages, destination.slot_mapping)
        return _launch(layer, x, pages=pages).unflatten(-1, (-1, destination.head_dim))

    def quantize_input(self, x: torch.Tensor) -> torch.Tensor | QuantizedRows:
        return self.larger.quantize_input(x)


def _launch(
    layer: Linear,
    x: LinearInput,
    *,
    activation: str | None = None,
    residual: torch.Tensor | None = None,
    pages: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    from antiphon.kernels.small_batch_linear import linear  # Triton exists where CUDA does

    assert not isinstance(x, QuantizedRows)
    norm = (x.norm.weight, x.norm.bias, x.norm.eps) if isinstance(x, DeferredNorm) else None
    return linear(
        x.x if isinstance(x, DeferredNorm) else x,
        layer.weight,
        layer.bias,
        scales=layer.weight_scale,
        norm=norm,
        activation=activation,
        residual=residual,
        pages=pages,
    )
