"""The files that hold a checkpoint's tensors: safetensors, pickled by torch.save, or CTranslate2's.

The first two are one file, or several with an index.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open

from antiphon.config.errors import CheckpointError, describe
from antiphon.config.locate import WEIGHTS
from antiphon.families.ctranslate2_file import FILE_NAME as CTRANSLATE2
from antiphon.layers.ctranslate2_tensors import CTranslate2Tensors


class StoredTensor(Protocol):
    """A tensor in a file, of which any block can be read."""

    def get_shape(self) -> list[int]: ...

    def __getitem__(self, index: tuple[slice, ...]) -> torch.Tensor: ...


class TensorFile(Protocol):
    def keys(self) -> Iterable[str]: ...

    def get_tensor(self, name: str) -> torch.Tensor: ...

    def get_slice(self, name: str) -> StoredTensor: ...


class _Mapped:
    """A tensor of a file that is mapped into memory: only what is read of it is loaded."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor

    def get_shape(self) -> list[int]:
        return list(self._tensor.shape)

    def __getitem__(self, index: tuple[slice, ...]) -> torch.Tensor:
        return self._tensor[index]


class _Pickled:
    """A file of torch.save, mapped into memory. Only tensors are unpickled: no code of it runs."""

    def __init__(self, path: Path) -> None:
        try:
            content = _load(path)
        except Exception as error:  # broken pickles raise nearly any type
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise CheckpointError(
                f"cannot read the pickled weights of {path}: {reason} Only tensors are read from "
                "such files, never code; save them from transformers as model.safetensors"
            ) from None
        if not isinstance(content, dict) or not any(
            isinstance(value, torch.Tensor) for value in content.values()
        ):
            raise CheckpointError(
                f"{path} holds no tensors by name: "
                "is it the weights of a model in transformers format?"
            )
        self._tensors = {
            str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)
        }

    def keys(self) -> Iterable[str]:
        return self._tensors

    def get_tensor(self, name: str) -> torch.Tensor:
        return self._tensors[name]

    def get_slice(self, name: str) -> StoredTensor:
        return _Mapped(self._tensors[name])


def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap" not in str(error):
            raise
        # The format of before torch 1.6 can't be mapped.
        return torch.load(path, map_location="cpu", weights_only=True)


def open_tensors(path: Path) -> TensorFile:
    """Raises CheckpointError where the file can't be read."""
    if path.name == CTRANSLATE2:
        return CTranslate2Tensors(path)
    if path.suffix == ".bin":
        return _Pickled(path)
    try:
        file: TensorFile = safe_open(path, framework="pt")
        return file
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from None


def files_by_tensor(folder: Path) -> dict[str, str]:
    """The file of each tensor, by the tensor's name, in the first format of WEIGHTS that exists.

    Raises CheckpointError for a folder without weights, or an index that does not fit it.
    """
    own = next((name for name in WEIGHTS if (folder / name).exists()), None)
    if own is None:
        others = sorted(
            path.name
            for path in folder.glob("*")
            if path.suffix in (".safetensors", ".bin", ".pt", ".pth")
        )
        hint = f" Not read: {', '.join(others[:5])}." if others else ""
        raise CheckpointError(
            f"{folder} holds neither model.safetensors nor pytorch_model.bin, "
            f"nor an index of several files, nor CTranslate2's model.bin.{hint}"
        )
    if not own.endswith(".json"):
        return dict.fromkeys(open_tensors(folder / own).keys(), own)
    return _indexed(folder, own)


def _indexed(folder: Path, index: str) -> dict[str, str]:
    try:
        files = json.loads((folder / index).read_text("utf-8-sig"))["weight_map"]
        shards = {str(name): str(file) for name, file in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"cannot read {folder / index}: {describe(error)}") from None
    outside = sorted({name for name in shards.values() if Path(name).name != name})
    if outside:
        raise CheckpointError(
            f"{folder / index} names files outside its folder: {', '.join(outside)}"
        )
    absent = sorted({name for name in shards.values() if not (folder / name).exists()})
    if absent:
        raise CheckpointError(
            f"{folder / index} names files that are not there: {', '.join(absent)}"
        )
    return shards
