"""Weights and activations that are not finite are refused before a request could end empty."""

import math
import shutil
from pathlib import Path

import pytest
import torch
from plain_engine import PlainEngine
from safetensors.torch import load_file, save_file

from antiphon.config.errors import CheckpointError
from antiphon.layers.finite import check_output, not_finite

NAN, INF = math.nan, math.inf


def changed(checkpoint: Path, folder: Path, name: str, value: float) -> Path:
    """A copy of a checkpoint with one value of one tensor replaced."""
    shutil.copytree(checkpoint, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[name].view(-1)[-1] = value
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "model.shared.weight",
        "model.encoder.layers.0.fc1.weight",
        "model.encoder.layers.0.self_attn.k_proj.bias",
        "model.decoder.layers.1.self_attn.v_proj.weight",
        "model.decoder.layers.1.final_layer_norm.bias",
    ],
)
@pytest.mark.parametrize("value", [NAN, INF])
def test_a_damaged_tensor_is_named(name: str, value: float, checkpoints, tmp_path: Path) -> None:
    folder = changed(checkpoints("bart")[0], tmp_path / "bart", name, value)
    with pytest.raises(CheckpointError, match=f"{name} in .*model.safetensors holds values"):
        PlainEngine(folder)


def test_a_number_that_the_dtype_cannot_hold(checkpoints, tmp_path: Path) -> None:
    name = "model.decoder.layers.0.fc2.weight"
    folder = changed(checkpoints("bart")[0], tmp_path / "bart", name, 70_000.0)
    with pytest.raises(CheckpointError, match=rf"{name} .* up to 7e\+04, more than torch\.float16"):
        PlainEngine(folder, warm=True, dtype="float16")
    PlainEngine(folder, dtype="float32")


@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_activations_that_overflow(half: str, checkpoints, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoints("bart")[0], tmp_path / "bart")
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        if name.startswith(f"model.{half}.") and ".fc1." in name:
            tensor.fill_(60_000.0)
        elif name.startswith(f"model.{half}.") and ".fc2." in name:
            tensor.copy_(torch.full_like(tensor, 60_000.0))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=f"the {half} computes numbers that are not finite"):
        PlainEngine(folder, warm=True, dtype="float16")


def test_forbidden_tokens_are_no_damage() -> None:
    bias = torch.tensor([[0.0, -INF, 1.0]])
    assert not not_finite([bias, torch.ones(2, 2), torch.tensor([3])])
    assert not_finite([torch.full((2, 2), -INF)])
    assert not_finite([torch.tensor([INF])])
    check_output(bias, "decoder", Path("model"))
    for value in (NAN, INF):
        with pytest.raises(CheckpointError, match="the decoder computes"):
            check_output(torch.tensor([[0.0, value]]), "decoder", Path("model"))
