"""Ways to change a checkpoint on disk: its config, its tensors, the format of its weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]
SAFETENSORS_SHARDS = "model-0000{}-of-00002.safetensors"
PICKLED_SHARDS = "pytorch_model-0000{}-of-00002.bin"


def change(folder: Path, **values: Any) -> None:
    """Changes config.json; a value of ... removes its key."""
    config = json.loads((folder / "config.json").read_text()) | values
    (folder / "config.json").write_text(
        json.dumps({key: value for key, value in config.items() if value is not ...})
    )


def rewrite(folder: Path, edit: Callable[[Tensors], Tensors | None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edited = edit(tensors)
    save_file(tensors if edited is None else edited, folder / "model.safetensors")


def pickled(folder: Path, **options: Any) -> Tensors:
    tensors = load_file(folder / "model.safetensors")
    torch.save(tensors, folder / "pytorch_model.bin", **options)
    (folder / "model.safetensors").unlink()
    return tensors


def shards(folder: Path, pattern: str, save: Callable[[Tensors, Path], None]) -> list[str]:
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    files = [pattern.format(1), pattern.format(2)]
    halves = [names[::2], names[1::2]]
    for file, half in zip(files, halves, strict=True):
        save({name: tensors[name] for name in half}, folder / file)
    index = {
        "metadata": {},
        "weight_map": {
            name: file for file, half in zip(files, halves, strict=True) for name in half
        },
    }
    own = "model.safetensors" if "safetensors" in pattern else "pytorch_model.bin"
    (folder / f"{own}.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    return files
