"""What `antiphon info` prints."""

import platform
from collections.abc import Mapping
from typing import Any

import torch

from antiphon.attention.backends import BACKENDS
from antiphon.attention.interface import AttentionSpec
from antiphon.attention.selection import ORDER, refusal
from antiphon.config.families import FAMILIES, Half
from antiphon.config.model import ModelConfig
from antiphon.config.options import resolve
from antiphon.layers.device import Target


def describe_machine() -> str:
    lines = [f"python {platform.python_version()}, torch {torch.__version__}, {torch.get_num_threads()} CPU threads"]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            lines.append(
                f"cuda:{index} {properties.name}, {properties.total_memory / 2**30:.0f} GiB, capability {properties.major}.{properties.minor}"
            )
    else:
        lines.append("no CUDA device")
    lines += ["", "attention backends (full: encoder; causal, cross: decoder; bias: T5's):"]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    for name in BACKENDS:
        for kind, bias in (("full", False), ("full", True), ("causal", False), ("causal", True), ("cross", False)):
            why = refusal(name, _spec(kind, 8, 64, 0.125, dtype, device, bias))
            lines.append(f"  {name:12} {kind + (' + bias' if bias else ''):14} {'yes' if why is None else 'no: ' + why}")
    lines += [f"  order of 'auto' on {device.type}: {', '.join(ORDER[device.type])}", "", "architectures:"]
    return "\n".join([*lines, *(f"  {name} ({family.input})" for name, family in FAMILIES.items())])


def describe_model(name: str, options: Mapping[str, Any]) -> str:
    config = resolve(name, options)
    model = ModelConfig.load(config.model)
    target = Target.resolve(config.model, model.raw)
    lines = [
        f"{model.path}: {model.architecture}, {str(target.dtype).removeprefix('torch.')} on {target.device}",
        f"  encoder: {_half(model.encoder)}, up to {model.max_encoder_len} tokens",
        f"  decoder: {_half(model.decoder)}, up to {model.max_decoder_len} tokens",
    ]
    halves = (
        ("encoder", model.encoder, ("full",), config.encoder.encoder_attention_backend),
        ("decoder", model.decoder, ("causal", "cross"), config.decoder.decoder_attention_backend),
    )
    for half_name, half, kinds, asked in halves:
        specs = [
            _spec(
                kind, half.num_heads, half.head_dim, half.attention_scale, target.dtype, target.device,
                half.structure == "t5" and kind != "cross",
            )
            for kind in kinds
        ]  # fmt: skip
        order = ORDER[target.device.type] if asked == "auto" else (asked,)
        usable = [each for each in order if all(refusal(each, spec) is None for spec in specs)]
        lines.append(f"  {half_name} attention ({', '.join(kinds)}): {usable[0] if usable else f'{asked} cannot be used'}")
    return "\n".join(lines)


def _spec(kind: Any, heads: int, size: int, scale: float, dtype: torch.dtype, device: torch.device, bias: bool) -> AttentionSpec:
    return AttentionSpec(kind, heads, size, scale, dtype, device, bias, None if kind == "full" else 16)


def _half(half: Half) -> str:
    return f"{half.num_layers} layers of {half.hidden_size}, {half.num_heads} heads of {half.head_dim}"
