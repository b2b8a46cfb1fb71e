"""Reads one half's weights from safetensors, single file or index, straight into its modules."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from antiphon.config.errors import CheckpointError
from antiphon.layers.linear import StackedLinear

Names = Callable[[str], tuple[str, ...]]


class Checkpoint:
    """The tensors of a checkpoint folder by name; each is read only when asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = _files_by_tensor(folder)
        self._open: dict[str, safe_open] = {}

    def __contains__(self, name: str) -> bool:
        return name in self.files

    def read(self, name: str, shape: torch.Size) -> torch.Tensor:
        """The tensor, or CheckpointError when its shape is not `shape`."""
        file = self.files[name]
        try:
            if file not in self._open:
                self._open[file] = safe_open(self.folder / file, framework="pt")
            tensor = self._open[file].get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"cannot read {name} from {self.folder / file}: {error}") from None
        if [size for size in tensor.shape if size != 1] != [size for size in shape if size != 1]:
            raise CheckpointError(
                f"{name} in {self.folder / file} has shape {list(tensor.shape)}; config.json asks for {list(shape)}"
            )
        return tensor.reshape(shape)


def _files_by_tensor(folder: Path) -> dict[str, str]:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        try:
            files: dict[str, str] = json.loads(index.read_text())["weight_map"]
        except (ValueError, KeyError) as error:
            raise CheckpointError(f"cannot read {index}: {type(error).__name__}: {error}") from None
        absent = sorted({name for name in files.values() if not (folder / name).exists()})
        if absent:
            raise CheckpointError(f"{index} names files that are not there: {', '.join(absent)}")
        return files
    single = folder / "model.safetensors"
    if not single.exists():
        pickled = any(folder.glob("pytorch_model*.bin"))
        hint = " It has pickled weights only: convert them with transformers' save_pretrained." if pickled else ""
        raise CheckpointError(f"{folder} holds neither model.safetensors nor an index of several.{hint}")
    try:
        with safe_open(single, framework="pt") as file:
            return dict.fromkeys(file.keys(), single.name)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"cannot read {single}: {error}") from None


def load_weights(module: nn.Module, checkpoint: Checkpoint, names: Names) -> None:
    """Fills every parameter and persistent buffer of `module`; `names(path)` gives the checkpoint's names to try, in order.

    Raises CheckpointError for a missing tensor or a wrong shape; names the tensor and both shapes.
    """
    stacked = {path: child for path, child in module.named_modules() if isinstance(child, StackedLinear)}
    with torch.no_grad():
        for path, layer in stacked.items():
            _load_stacked(path, layer, checkpoint, names)
        for path, target in _tensors(module):
            if path.rpartition(".")[0] not in stacked:
                target.copy_(_read(checkpoint, names(path), target.shape))


def fill_randomly(module: nn.Module) -> None:
    """Weights like a fresh model's, for measuring: matrices normal with deviation 0.02, gains 1, biases 0."""
    for path, target in _tensors(module):
        if target.ndim > 1:
            target.data.normal_(std=0.02)
        else:
            target.data.fill_(1.0 if "norm" in path and path.endswith("weight") else 0.0)


def _tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.state_dict(keep_vars=True).items()


def _load_stacked(path: str, layer: StackedLinear, checkpoint: Checkpoint, names: Names) -> None:
    parent = path.rpartition(".")[0]
    row, weight = 0, layer.weight
    assert isinstance(weight, torch.Tensor), "weights are quantised once they are loaded"
    for part, size in layer.parts.items():
        rows = slice(row, row := row + size)
        weight[rows].copy_(_read(checkpoint, names(f"{parent}.{part}.weight"), weight[rows].shape))
        if layer.bias is not None:
            if part in layer.unbiased:
                layer.bias[rows].zero_()
            else:
                layer.bias[rows].copy_(_read(checkpoint, names(f"{parent}.{part}.bias"), layer.bias[rows].shape))


def _read(checkpoint: Checkpoint, candidates: tuple[str, ...], shape: torch.Size) -> torch.Tensor:
    for name in candidates:
        if name in checkpoint:
            return checkpoint.read(name, shape)
    raise CheckpointError(f"{checkpoint.folder} lacks the tensor {candidates[0]}")
