"""Small checkpoints in the forms of `packed_writers`, beside the same numbers in full."""

import json
from pathlib import Path

from packed_writers import METHODS
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel


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
    tensors = load_file(plain / "model.safetensors")
    packed, dense = dict(tensors), dict(tensors)
    for name in linear_names(model):
        written = write(packed.pop(f"{name}.weight").float())
        packed.update({f"{name}.{part}": tensor for part, tensor in written.tensors.items()})
        dense[f"{name}.weight"] = written.weight
    config = json.loads((plain / "config.json").read_text())
    folders = folder / "packed", folder / "dense"
    for path, content in zip(folders, (packed, dense), strict=True):
        path.mkdir()
        for file in plain.glob("*.json"):
            (path / file.name).write_bytes(file.read_bytes())
        save_file(
            {name: tensor.clone().contiguous() for name, tensor in content.items()},
            path / "model.safetensors",
        )
    (folders[0] / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))
    return folders
