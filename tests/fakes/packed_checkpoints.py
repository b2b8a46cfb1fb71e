"""Small checkpoints in the forms of `packed_writers`, beside the same numbers in full."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from packed_writers import METHODS, Writer
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

Tensors = dict[str, torch.Tensor]


def linear_names(model: PreTrainedModel) -> list[str]:
    """Every linear layer but the one that makes logits, by its name in the model."""
    head = model.get_output_embeddings()
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    ]


def write_packed(
    plain: Path, model: PreTrainedModel, method: str, folder: Path
) -> tuple[Path, Path]:
    """The checkpoint in `plain`, of `model`, with its linear layers as `method` stores them, and
    one with the numbers that they then stand for, in full."""
    settings, write = METHODS[method]
    packed, dense = packed_and_dense(plain, model, write)
    folders = folder / "packed", folder / "dense"
    write_like(plain, folders[0], packed, settings)
    write_like(plain, folders[1], dense)
    return folders


def packed_and_dense(plain: Path, model: PreTrainedModel, write: Writer) -> tuple[Tensors, Tensors]:
    """All tensors of the checkpoint in `plain`: as `write` stores them, and what they stand for."""
    tensors = load_file(plain / "model.safetensors")
    packed, dense = dict(tensors), dict(tensors)
    for name in linear_names(model):
        written = write(packed.pop(f"{name}.weight").float())
        packed.update({f"{name}.{part}": tensor for part, tensor in written.tensors.items()})
        dense[f"{name}.weight"] = written.weight
    return packed, dense


def write_like(
    plain: Path, folder: Path, tensors: Tensors, settings: dict[str, Any] | None = None
) -> None:
    """`folder`: the checkpoint in `plain` with other `tensors`, and `settings` of how they are
    quantised."""
    shutil.copytree(plain, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    contiguous = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, folder / "model.safetensors")
    if settings is not None:
        config = json.loads((plain / "config.json").read_text())
        config["quantization_config"] = settings
        (folder / "config.json").write_text(json.dumps(config))
