"""Checkpoints as quantisation libraries publish them, and what transformers makes of their numbers.

Written here from the formats' descriptions: the engine's readers share no code with it.
"""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

FLOAT8 = torch.float8_e4m3fn
GROUP = 8  # of inputs
HEADS = ("lm_head", "proj_out")


@dataclass(frozen=True)
class Method:
    """`block`: rows and columns that share a scale; 0: all. `inputs`: as in config.json."""

    kind: str  # int or float
    bits: int
    block: tuple[int, int]
    symmetric: bool = True
    packed: bool = False
    ordered: bool = False  # groups are of inputs in any order
    inputs: dict[str, Any] | None = None
    method: str = "compressed-tensors"
    settings: dict[str, Any] = field(default_factory=dict)


TOKEN = {"num_bits": 8, "strategy": "token", "dynamic": True, "symmetric": True}
STATIC = {"num_bits": 8, "strategy": "tensor", "dynamic": False, "symmetric": True}
METHODS = {
    "fp8 by tensor, static": Method("float", 8, (0, 0), inputs={**STATIC, "type": "float"}),
    "fp8 by output": Method("float", 8, (1, 0), inputs={**TOKEN, "type": "float"}),
    "fp8 by block": Method(
        "float", 8, (16, 16),
        inputs={**TOKEN, "type": "float", "strategy": "group", "group_size": 16},
    ),
    "fp8 by small block": Method(
        "float", 8, (4, 4),
        inputs={**TOKEN, "type": "float", "strategy": "group", "group_size": 4},
    ),
    "fp8 weights": Method("float", 8, (1, 0)),
    "w8a8": Method("int", 8, (1, 0), inputs={**TOKEN, "type": "int"}),
    "w8a8 by tensor": Method("int", 8, (0, 0), inputs={**TOKEN, "type": "int"}),
    "w8a8 with zero points": Method(
        "int", 8, (1, 0), inputs={**TOKEN, "type": "int", "symmetric": False}
    ),
    "w8a8 static": Method(
        "int", 8, (1, 0), inputs={**STATIC, "type": "int", "symmetric": False}
    ),
    "w4a16": Method("int", 4, (1, GROUP), packed=True),
    "w4a16 with zero points": Method("int", 4, (1, GROUP), symmetric=False, packed=True),
    "w4a16 by output": Method("int", 4, (1, 0), packed=True),
    "w4a16 in any order": Method("int", 4, (1, GROUP), packed=True, ordered=True),
    "w8a16": Method("int", 8, (1, GROUP), packed=True),
    "w8a16 with zero points": Method("int", 8, (1, GROUP), symmetric=False, packed=True),
    "w8a16 by output": Method("int", 8, (1, 0)),
    "fine-grained fp8": Method(
        "float", 8, (16, 16), method="fp8",
        inputs={**TOKEN, "type": "float", "group_size": 16},
        settings={"weight_block_size": [16, 16], "activation_scheme": "dynamic"},
    ),
    "fbgemm fp8": Method(
        "float", 8, (1, 0), method="fbgemm_fp8", inputs={**TOKEN, "type": "float"},
        settings={"activation_scale_ub": 1200.0},
    ),
}  # fmt: skip
STATIC_SCALE, STATIC_ZERO = 0.05, -7


def publish(
    model: PreTrainedModel,
    source: Path,
    folder: Path,
    method: Method,
    kept_out: tuple[str, ...] = (),
    more: dict[str, Method] | None = None,
    heads: bool = False,
) -> None:
    """Writes the checkpoint of `model` in `source` to `folder` as `method` stores it, and gives
    `model` the numbers that this stands for.

    Layers whose names hold any of `kept_out` stay plain; those whose names hold a key of `more`
    are stored by that method instead, as groups of their own. With `heads`, what makes logits is
    quantised too.
    """
    shutil.copytree(source, folder, dirs_exist_ok=True)
    stored = load_file(folder / "model.safetensors")
    names = {id_of(tensor): name for name, tensor in stored.items()}
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and (heads or not name.endswith(HEADS))
    }
    ignored, by_name = [], {}
    for name, layer in layers.items():
        full = names[id_of(layer.weight.data)].removesuffix(".weight")
        if any(part in name for part in kept_out):
            ignored.append(full)
            continue
        own = next((other for part, other in (more or {}).items() if part in name), method)
        if own is not method:
            by_name.setdefault(id(own), (own, []))[1].append(full)
        del stored[f"{full}.weight"]
        stored |= {f"{full}.{part}": tensor for part, tensor in quantized(layer, own).items()}
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    groups = [(method, ["Linear"]), *by_name.values()]
    config["quantization_config"] = settings_of(groups, ignored if heads else ["lm_head", *ignored])
    (folder / "config.json").write_text(json.dumps(config))


def id_of(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tuple(tensor.shape), *tensor.flatten()[:40].tolist()


def settings_of(groups: list[tuple[Method, list[str]]], ignored: list[str]) -> dict[str, Any]:
    method = groups[0][0]
    if method.method != "compressed-tensors":
        return {
            "quant_method": method.method, "modules_to_not_convert": ignored, **method.settings
        }  # fmt: skip
    return {
        "quant_method": "compressed-tensors",
        "format": "mixed-precision" if len(groups) > 1 else layout(method),
        "quantization_status": "compressed",
        "ignore": ignored,
        "config_groups": {
            f"group_{number}": {
                "targets": targets,
                "weights": weight_settings(own),
                "input_activations": own.inputs,
                "format": layout(own),
            }
            for number, (own, targets) in enumerate(groups)
        },
    }


def layout(method: Method) -> str:
    return "pack-quantized" if method.packed else f"{method.kind}-quantized"


def weight_settings(method: Method) -> dict[str, Any]:
    rows, columns = method.block
    strategy = "block" if rows > 1 else "group" if columns else "channel" if rows else "tensor"
    return {
        "num_bits": method.bits, "type": method.kind, "strategy": strategy,
        "symmetric": method.symmetric, "dynamic": False,
        "group_size": columns if strategy == "group" else None,
        **({"block_structure": [rows, columns]} if strategy == "block" else {}),
    }  # fmt: skip


def quantized(layer: nn.Linear, method: Method) -> dict[str, torch.Tensor]:
    """The tensors of `layer` as `method` stores them. The layer gets their numbers, and rounds its
    inputs as the method does."""
    weight = layer.weight.data
    rows, columns = weight.shape
    group_of = torch.arange(columns) // (method.block[1] or columns)
    if method.ordered:
        generator = torch.Generator().manual_seed(columns)
        group_of = group_of[torch.randperm(columns, generator=generator)]
    row_of = torch.arange(rows) // (method.block[0] or rows)
    shape = (int(row_of.max()) + 1, int(group_of.max()) + 1)
    low, high = (bounds(weight, row_of, group_of, shape, how) for how in ("amin", "amax"))
    most = 448.0 if method.kind == "float" else 2.0 ** (method.bits - 1) - 1
    zeros = torch.zeros(shape)
    if method.symmetric:
        scales = torch.maximum(low.abs(), high.abs()) / most
    else:
        low, high = low.clamp(max=0), high.clamp(min=0)
        scales = (high - low) / (2**method.bits - 1)
        zeros = torch.round(-(2 ** (method.bits - 1)) - low / scales)
    by_weight = scales[row_of][:, group_of], zeros[row_of][:, group_of]
    codes = weight / by_weight[0] + by_weight[1]
    if method.kind == "float":
        codes = codes.clamp(-448, 448).to(FLOAT8)
    else:
        least = -(2 ** (method.bits - 1))
        codes = codes.round().clamp(least, -least - 1)
    layer.weight.data = (codes.float() - by_weight[1]) * by_weight[0]
    tensors = named(codes, scales, zeros, method)
    if method.ordered:
        tensors["weight_g_idx"] = group_of.int()
    if method.inputs:
        layer.register_forward_pre_hook(lambda _, args: (rounded_input(args[0], method.inputs),))
        if not method.inputs["dynamic"]:
            tensors["input_scale"] = torch.tensor([STATIC_SCALE])
            if not method.inputs["symmetric"]:
                tensors["input_zero_point"] = torch.tensor([STATIC_ZERO], dtype=torch.int8)
    return tensors


def bounds(
    weight: torch.Tensor, row_of: torch.Tensor, group_of: torch.Tensor, shape: Any, how: str
) -> torch.Tensor:
    places = (row_of[:, None] * shape[1] + group_of).flatten()
    empty = torch.zeros(shape[0] * shape[1])
    return empty.scatter_reduce(0, places, weight.flatten(), how, include_self=False).view(shape)


def named(
    codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, method: Method
) -> dict[str, torch.Tensor]:
    if method.method == "fp8":
        return {"weight": codes, "weight_scale_inv": scales}
    tensors = {"weight_scale": scales.reshape(1) if method.block == (0, 0) else scales}
    if not method.packed:
        return {**tensors, "weight": codes if method.kind == "float" else codes.to(torch.int8)}
    offset = 2 ** (method.bits - 1)
    tensors["weight_packed"] = words(codes + offset, method.bits)
    tensors["weight_shape"] = torch.tensor(codes.shape)
    if not method.symmetric:
        tensors["weight_zero_point"] = words((zeros + offset).t(), method.bits).t().contiguous()
    return tensors


def words(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """[rows, columns] -> int32 [rows, words], the first number in the lowest bits."""
    by_word = 32 // bits
    padded = nn.functional.pad(codes.long(), (0, -codes.shape[1] % by_word))
    shifts = torch.arange(by_word) * bits
    numbers = (padded.unflatten(1, (-1, by_word)) << shifts).sum(-1)
    return (numbers - (numbers >= 2**31) * 2**32).int()


def rounded_input(x: torch.Tensor, settings: dict[str, Any]) -> torch.Tensor:
    if not settings["dynamic"]:
        zero = 0 if settings["symmetric"] else STATIC_ZERO
        return coded(x, torch.tensor(STATIC_SCALE), torch.tensor(float(zero)), settings["type"])
    size = settings.get("group_size") or x.shape[-1]
    groups = nn.functional.pad(x, (0, -x.shape[-1] % size)).unflatten(-1, (-1, size))
    if settings["symmetric"]:
        most = 448.0 if settings["type"] == "float" else 127.0
        scale = groups.abs().amax(-1, keepdim=True).clamp(min=1e-12) / most
        zero = torch.zeros_like(scale)
    else:
        low = groups.amin(-1, keepdim=True).clamp(max=0)
        scale = (groups.amax(-1, keepdim=True).clamp(min=0) - low).clamp(min=1e-12) / 255
        zero = torch.round(-128 - low / scale)
    return coded(groups, scale, zero, settings["type"]).flatten(-2)[..., : x.shape[-1]]


def coded(x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, kind: str) -> torch.Tensor:
    if kind == "float":
        return (x / scale).clamp(-448, 448).to(FLOAT8).to(x.dtype) * scale
    return ((x / scale + zero).round().clamp(-128, 127) - zero) * scale
