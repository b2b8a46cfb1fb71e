"""What happens to a loaded model before it runs: every pass, in order.

A fresh model computes in plain torch. These passes change its weights and choose, for
each layer, the method that computes it; nothing chooses again later.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeGuard

import torch
from torch import nn

from antiphon.kernels.formats import FLOAT8
from antiphon.layers.activations import Activation, FusedActivation
from antiphon.layers.linear import Linear, LinearMethod, PlainProduct
from antiphon.layers.linear_methods import CublasProduct, SmallBatch, SplitKProduct
from antiphon.layers.norms import DeferringNorm, FusedNorm, Norm
from antiphon.layers.padding import pad_features
from antiphon.layers.quantization.float8 import Float8Product
from antiphon.layers.quantization.grouped import HALF_PRECISION, FewRows
from antiphon.layers.quantization.int8 import Int8Product, Int8WeightOnly
from antiphon.layers.quantization.kv_scales import (
    CachedProjections,
    ProjectionInput,
    StoredScales,
    fit_kv_scales,
)
from antiphon.layers.quantization.quantize import feed_float8, quantize_decoder, quantize_encoder
from antiphon.layers.quantization.stored import choose_stored
from antiphon.runtime.device import Target

# Methods to which one kernel for few rows is added.
FUSED = (PlainProduct, Int8WeightOnly, Int8Product)


class Model(Protocol):
    """An encoder or a decoder, as far as these passes ask."""

    @property
    def layers(self) -> nn.ModuleList: ...

    def modules(self) -> Iterator[nn.Module]: ...


class CachedModel(Model, Protocol):
    """A decoder: its attentions keep keys and values."""

    def self_projections(self) -> Sequence[tuple[CachedProjections, ProjectionInput]]:
        """The projections around every self-attention, with the rows that they read."""

    def cross_projections(self) -> Sequence[CachedProjections]:
        """The projections around every cross-attention."""


def prepare_encoder(model: Model, quantization: str, target: Target, pre_norm: bool) -> None:
    """Raises ConfigurationError for layers whose size `quantization` can't have."""
    pad_features(model, target)
    choose_kernels(model, target)
    choose_stored(model, target)
    feed_float8(model.layers, pre_norm)
    quantize_encoder(quantization, model.layers, pre_norm)


def prepare_decoder(
    model: CachedModel,
    quantization: str,
    target: Target,
    kv_dtype: torch.dtype | None,
    encoder_states: ProjectionInput | None,
    stored_scales: tuple[Sequence[StoredScales | None], Sequence[StoredScales | None]] = ((), ()),
) -> None:
    """`kv_dtype`: of cached keys and values, where it is not the target's.
    `encoder_states`: what their float8 cross part is made of; None where there is none.
    `stored_scales`: a checkpoint's own of each self-attention and each cross-attention.

    Raises ConfigurationError for layers whose size `quantization` can't have.
    """
    pad_features(model, target)
    cross = model.cross_projections()
    if kv_dtype == FLOAT8:  # changes weights, so before they are quantized
        of_self, of_cross = stored_scales
        fit_kv_scales(model.self_projections(), of_self)
        if encoder_states is not None:
            fit_kv_scales([(projections, encoder_states) for projections in cross], of_cross)
    choose_kernels(model, target)
    choose_stored(model, target)
    written = {f"{i}.kv": projections.keys_values for i, projections in enumerate(cross)}
    quantize_decoder(quantization, model.layers, written)
    read_few_rows(model.layers, target)
    fuse_small_batches(model.layers, target)  # around whatever was chosen above


def choose_kernels(model: Model, target: Target) -> None:
    """On a GPU: our fused kernels, and cuBLAS's epilogues, in place of torch's operations."""
    if target.device.type != "cuda":
        return
    for module in model.modules():
        if isinstance(module, Norm):
            module.method = FusedNorm()
        elif isinstance(module, Activation) and target.dtype in HALF_PRECISION:
            module.method = FusedActivation()
        elif _is_plain(module) and target.dtype in HALF_PRECISION:
            module.use(CublasProduct())


def _is_plain(module: nn.Module) -> TypeGuard[Linear]:
    """A linear layer whose weight is plain numbers."""
    return (
        isinstance(module, Linear)
        and type(module.own_method) is PlainProduct
        and (module.quantized is None)
    )


def read_few_rows(layers: nn.Module, target: Target) -> None:
    """On a GPU, in half precision: eight-bit weights of a decoder are read as they are, where few
    rows are multiplied with them."""
    if target.device.type != "cuda" or target.dtype not in HALF_PRECISION:
        return
    for module in layers.modules():
        if isinstance(module, Linear) and FewRows.suits(module):
            module.use(FewRows(module, module.own_method))


def _is_fused(method: LinearMethod) -> bool:
    """Whether one kernel for few rows computes what `method` does."""
    inner = method.larger if isinstance(method, FewRows) else method
    return isinstance(inner, FUSED) or type(inner) is Float8Product


def fuse_small_batches(layers: nn.Module, target: Target) -> None:
    """On a GPU, in half precision: a linear layer takes few rows through one kernel.

    The norm before it and the residual sum behind it are computed in the same kernel.
    Layers of which that kernel can't have the size or the numbers keep their method.
    """
    if target.device.type != "cuda" or target.dtype not in HALF_PRECISION:
        return
    from antiphon.kernels.small_batch_linear import fits  # Triton exists where CUDA does

    fused = [
        module
        for module in layers.modules()
        if isinstance(module, Linear)
        and _is_fused(module.own_method)
        and fits(*reversed(module.shape))
    ]
    for layer in fused:
        full_precision = layer.weight_scale is None
        splits = full_precision and SplitKProduct.suits(layer)
        layer.use(SmallBatch(SplitKProduct() if splits else layer.own_method))
    if fused:
        for module in layers.modules():
            if isinstance(module, Norm):
                module.method = DeferringNorm(module.method)
