"""What `antiphon info` prints."""

import platform
from collections.abc import Mapping
from typing import Any

import torch

from antiphon.attention.backends import BACKENDS
from antiphon.attention.interface import AttentionSpec, Kind
from antiphon.attention.selection import ORDER, choose, refusal
from antiphon.attention.specs import decoder_specs, encoder_specs
from antiphon.config.errors import AttentionBackendError
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
    capability = torch.cuda.get_device_capability() if device.type == "cuda" else None
    kinds: list[tuple[Kind, bool]] = [("full", False), ("full", True), ("causal", False), ("causal", True), ("cross", False)]
    for name in BACKENDS:
        for kind, bias in kinds:
            why = refusal(name, AttentionSpec(kind, 8, 64, 0.125, dtype, device, bias), capability)
            lines.append(f"  {name:12} {kind + (' + bias' if bias else ''):14} {'yes' if why is None else 'no: ' + why}")
    for half, group in (("an encoder of sound", "full"), ("an encoder of text", "ragged"), ("the decoder", "paged")):
        lines.append(f"  order of 'auto' for {half} on {device.type}: {', '.join(ORDER[device.type, group])}")
    lines += ["", "architectures:"]
    return "\n".join([*lines, *(f"  {name} ({family.input})" for name, family in FAMILIES.items())])


def describe_model(name: str, options: Mapping[str, Any]) -> str:
    config = resolve(name, options)
    model = ModelConfig.load(config.model)
    target = Target.resolve(config.model, model.raw, model.family)
    lines = [
        f"{model.path}: {model.architecture}, {str(target.dtype).removeprefix('torch.')} on {target.device}",
        f"  encoder: {_half(model.encoder)}, up to {model.max_encoder_len} tokens",
        f"  decoder: {_half(model.decoder)}, up to {model.max_decoder_len} tokens",
    ]
    halves = (
        ("encoder", config.encoder.encoder_attention_backend, encoder_specs(model.encoder, target)),
        ("decoder", config.decoder.decoder_attention_backend, decoder_specs(model.decoder, target, config.decoder)),
    )
    for half, asked, specs in halves:
        kinds = ", ".join(spec.kind for spec in specs)
        try:
            lines.append(f"  {half} attention ({kinds}): {choose(half, asked, specs)}")
        except AttentionBackendError as error:
            lines.append(f"  {half} attention ({kinds}): {error}")
    return "\n".join(lines)


def _half(half: Half) -> str:
    return f"{half.num_layers} layers of {half.hidden_size}, {half.num_heads} heads of {half.head_dim}"
