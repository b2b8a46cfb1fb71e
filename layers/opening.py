"""Opens a checkpoint for a half of its model, and builds the modules that it fills."""

from collections.abc import Callable
from typing import TypeVar

from torch import nn

from antiphon.config.options import ModelOptions
from antiphon.families.checkpoint import ModelConfig
from antiphon.families.quantization.scheme import StoredQuantization
from antiphon.layers.checkpoint import Checkpoint
from antiphon.layers.held_weight import weights_without_memory
from antiphon.runtime.device import Target

M = TypeVar("M", bound=nn.Module)


def open_checkpoint(model: ModelConfig, options: ModelOptions) -> Checkpoint:
    """Its quantised weights stay as they are, unless `options` want others."""
    return Checkpoint(model.path, model.quantization, kept_small(model, options) is None)


def kept_small(model: ModelConfig, options: ModelOptions) -> StoredQuantization | None:
    """How weights that came quantised stay so; None where they are plain, or `options` want
    others."""
    return model.quantization if options.quantization == "none" else None


def build_to_fill(target: Target, checkpoint: Checkpoint, make: Callable[[], M]) -> M:
    """The module that `make` builds, to be filled from `checkpoint`.

    Weights of linear layers that may come quantised have no memory yet: in the model's
    precision they might not fit where the quantised ones do.
    """
    if not checkpoint.is_quantized:
        return target.build(make)
    with weights_without_memory():
        return target.build(make)
