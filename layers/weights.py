"""Reads one half's weights into its modules, and accounts for the checkpoint's other tensors."""

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from antiphon.config.errors import CheckpointError, UnsupportedModelError
from antiphon.families.family import Family
from antiphon.families.quantization.scheme import StoredQuantization
from antiphon.layers.checkpoint import Checkpoint
from antiphon.layers.finite import not_finite
from antiphon.layers.linear import Linear
from antiphon.layers.positions import SinusoidTable
from antiphon.layers.reading import Read, SelfLoading, Weight
from antiphon.layers.shard import Part, Sharded, Spans, whole

logger = logging.getLogger(__name__)

Names = Callable[[str], tuple[str, ...]]
# Names of tensors that quantized formats add.
_QUANTIZED = re.compile(
    r"\.(qweight|qzeros|g_idx|scales|SCB|weight_format"
    r"|weight_(scale(_inv)?|packed|zero_point|g_idx)"
    r"|input_scale|absmax|quant_map|quant_state.*)$"
)
_ADAPTER = re.compile(r"\.(lora_[AB]|lora_embedding_[AB]|base_layer)\.")


def check_unused(
    checkpoint: Checkpoint, half: Literal["encoder", "decoder"], family: Family
) -> None:
    """Accounts for the checkpoint's tensors that `half` did not read, once it is loaded.

    A tensor whose name belongs to neither half is accounted to the decoder. `family`
    says which names are the encoder's, and which tensors are not needed. All others are
    named in a warning. Raises CheckpointError where the weights can't be right without
    a tensor, because config.json has fewer layers or the tensor is an adapter's;
    UnsupportedModelError for quantized weights.
    """
    left = [
        name
        for name in checkpoint.files
        if name not in checkpoint.claimed and family.is_of_encoder(name) == (half == "encoder")
    ]
    ignored = family.ignored
    left = [name for name in left if not any(re.fullmatch(pattern, name) for pattern in ignored)]
    claimed = {_pattern(name) for name in checkpoint.claimed}
    for name in left:
        if _QUANTIZED.search(name):
            raise UnsupportedModelError(
                f"{checkpoint.folder} has {name}, of a quantised weight that its config.json "
                "(quantization_config) tells no way to read"
            )
        if _ADAPTER.search(name):
            raise CheckpointError(
                f"{checkpoint.folder} has {name}, of an adapter (LoRA): "
                "merge it with peft's merge_and_unload() and save the result"
            )
        if _pattern(name) in claimed:
            raise CheckpointError(
                f"{checkpoint.folder} has {name}, a layer more than config.json says"
            )
    if left:
        shown = ", ".join(sorted(left)[:8]) + (", ..." if len(left) > 8 else "")
        logger.warning(
            "%s: %d tensors are not used by its %s: %s", checkpoint.folder, len(left), half, shown
        )


def _pattern(name: str) -> str:
    """`name` without the number of its layer."""
    return re.sub(r"\.\d+\.", ".#.", name)


def load_part(
    module: nn.Module,
    checkpoint: Checkpoint,
    names: Names,
    part: Part,
    build_whole: Callable[[], nn.Module],
) -> None:
    """As `load_weights`, of a module that is `part` of a half. What other parts load is
    accounted for; `build_whole` tells what that is."""
    load_weights(module, checkpoint, lambda path: names(part.whole_path(path)))
    if not (part.is_first and part.is_last):
        with torch.device("meta"):
            _claim(build_whole(), checkpoint, names)


def load_weights(module: nn.Module, checkpoint: Checkpoint, names: Names) -> None:
    """Fills every parameter and persistent buffer of `module`, each with the share that is held.

    `names(path)` gives the checkpoint's names for the tensor at `path`, in order of
    preference. Raises CheckpointError for a missing tensor or a wrong shape, with the
    name and both shapes, and for one that holds NaN or infinite values, here or in the
    dtype of `module`.
    """
    with torch.no_grad():
        load(module, _Stored(checkpoint, names))
        for path, layer in module.named_modules():
            if isinstance(layer, SinusoidTable):
                _load_table(checkpoint, names(f"{path}.weight"), layer)
    _check_finite(module, checkpoint)


def load(module: nn.Module, read: Read) -> None:
    """Fills `module` with what `read` gives."""
    self_loading: list[str] = []
    shares = {}
    for path, layer in list(module.named_modules()):
        if path.startswith(tuple(self_loading)):
            continue  # a part of a module that fills itself
        if isinstance(layer, SelfLoading):
            layer.load(path, read)
            self_loading.append(f"{path}.")
        elif isinstance(layer, Sharded):
            prefix = f"{path}." if path else ""
            shares.update({f"{prefix}{name}": spans for name, spans in layer.shares.items()})
    for path, target in tensors(module):
        if not path.startswith(tuple(self_loading)):
            target.copy_(read(path, shares.get(path) or whole(*target.shape)))
    for layer in module.modules():
        if isinstance(layer, Linear) and layer.summed_over.rank and layer.bias is not None:
            layer.bias.zero_()  # the first rank adds it


def _claim(module: nn.Module, checkpoint: Checkpoint, names: Names) -> None:
    """Accounts for all that `module`, which has no memory, would load."""
    with torch.no_grad():
        load(module, _Claimed(checkpoint, names))
    for path, layer in module.named_modules():
        if isinstance(layer, SinusoidTable):
            checkpoint.claim(names(f"{path}.weight"))


@dataclass(frozen=True)
class _Stored:
    """`Read`s what a checkpoint holds under `names`."""

    checkpoint: Checkpoint
    names: Names

    def __call__(self, path: str, spans: Spans) -> torch.Tensor:
        return self.checkpoint.read(self.checkpoint.first_of(self.names(path)), spans)

    def weight(self, path: str, spans: Spans) -> Weight:
        return self.checkpoint.weight(self.checkpoint.first_of(self.names(path)), spans)


@dataclass(frozen=True)
class _Claimed:
    """Accounts for what it is asked to `Read`; its tensors have no memory."""

    checkpoint: Checkpoint
    names: Names

    def __call__(self, path: str, spans: Spans) -> torch.Tensor:
        self.checkpoint.claim(self.names(path))
        return torch.empty([span.count for span in spans], device="meta")

    weight = __call__


@dataclass
class _Weighed:
    """`Read`s nothing, and adds up by how many bytes quantised weights are smaller."""

    checkpoint: Checkpoint
    names: Names
    quantization: StoredQuantization
    itemsize: int
    saved: int = 0

    def __call__(self, path: str, spans: Spans) -> torch.Tensor:
        return torch.empty([span.count for span in spans], device="meta")

    def weight(self, path: str, spans: Spans) -> torch.Tensor:
        name = self.checkpoint.first_of(self.names(path))
        if not self.checkpoint.is_plain(name):
            outputs, inputs = (span.count for span in spans)
            scheme = self.quantization.scheme_of(name.removesuffix(".weight")).weights
            self.saved += outputs * inputs * self.itemsize - scheme.bytes_of(outputs, inputs)
        return self(path, spans)


def bytes_saved(
    module: nn.Module,
    checkpoint: Checkpoint,
    names: Names,
    quantization: StoredQuantization,
    itemsize: int,
) -> int:
    """How many bytes fewer `module`, which has no memory, takes with the checkpoint's weights than
    with numbers of `itemsize` bytes. Raises CheckpointError for a weight that is missing."""
    weighed = _Weighed(checkpoint, names, quantization, itemsize)
    with torch.no_grad():
        load(module, weighed)
    return weighed.saved


def _check_finite(module: nn.Module, checkpoint: Checkpoint) -> None:
    loaded = [tensor for _, tensor in tensors(module)]
    if not not_finite(loaded):
        return
    dtypes = {tensor.dtype for tensor in loaded if tensor.is_floating_point()}
    for name in sorted(filter(checkpoint.is_plain, checkpoint.claimed)):
        tensor, where = checkpoint.tensor(name), checkpoint.folder / checkpoint.files[name]
        if not_finite([tensor]):
            raise CheckpointError(
                f"{name} in {where} holds values that are NaN or infinite: every text would be "
                "empty. The file is damaged, or its training failed"
            )
        if too_narrow := [dtype for dtype in dtypes if not_finite([tensor.to(dtype)])]:
            raise CheckpointError(
                f"{name} in {where} holds values up to {tensor.abs().max():.3g}, more than "
                f"{too_narrow[0]} can hold: use dtype='bfloat16' or 'float32'"
            )
    raise CheckpointError(f"{checkpoint.folder} gives weights that are not finite")


def _load_table(checkpoint: Checkpoint, stored: tuple[str, ...], layer: SinusoidTable) -> None:
    """The table is computed, unless the checkpoint stores one of its own."""
    checkpoint.claim(stored)
    if any(name in checkpoint for name in stored):
        spans = whole(*layer.weight.shape)
        layer.weight.copy_(checkpoint.read(checkpoint.first_of(stored), spans))


def tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Its parameters and persistent buffers by path."""
    yield from module.state_dict(keep_vars=True).items()
