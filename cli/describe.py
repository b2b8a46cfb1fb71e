"""What `antiphon info` prints."""

import json
import math
import os
import platform
import struct
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from antiphon import __version__
from antiphon.attention.interface import AttentionSpec, Kind
from antiphon.attention.registry import BACKENDS
from antiphon.attention.selection import ORDER, choose, refusal
from antiphon.attention.specs import decoder_specs, encoder_spec
from antiphon.cli.layout import Layout
from antiphon.config.errors import AttentionBackendError, ConfigurationError
from antiphon.config.options import EngineConfig, resolve
from antiphon.decoder.room import bytes_of_sequence
from antiphon.engine.rank_shares import draft_bytes
from antiphon.families.checkpoint import ModelConfig
from antiphon.families.draft import with_draft
from antiphon.families.fitted import fitted
from antiphon.families.halves import Half
from antiphon.families.json_files import read_object
from antiphon.families.registry import families
from antiphon.kernels.formats import FLOAT8
from antiphon.layers.tensor_files import files_by_tensor
from antiphon.runtime.device import Target

GIB, MIB = 2**30, 2**20
LIBRARIES = ("torch", "transformers", "ray")


def summary() -> str:
    """This machine, and the attention backends that an engine would choose on it."""
    device, dtype, capability = _device()
    halves = (
        ("audio encoder", AttentionSpec("full", 8, 8, 64, 0.125, dtype, device, False)),
        ("text encoder", AttentionSpec("full", 8, 8, 64, 0.125, dtype, device, True, ragged=True)),
        ("decoder", AttentionSpec("causal", 8, 8, 64, 0.125, dtype, device, False, page_size=16)),
    )
    chosen = {half: choose(half, "auto", [spec]) for half, spec in halves}
    if chosen["audio encoder"] == chosen["text encoder"]:
        chosen = {"encoder": chosen.pop("text encoder"), "decoder": chosen["decoder"]}
    backends = ", ".join(f"{half} -> {backend}" for half, backend in chosen.items())
    versions = ", ".join(f"{name} {_version(name)}" for name in LIBRARIES)
    return (
        f"this machine: {_hardware(device, capability)}; {backends}\n"
        f"antiphon {__version__}, python {platform.python_version()}, {versions}"
    )


def _device() -> tuple[torch.device, torch.dtype, tuple[int, int] | None]:
    if torch.cuda.is_available():
        return torch.device("cuda"), torch.bfloat16, torch.cuda.get_device_capability()
    return torch.device("cpu"), torch.float32, None


def _hardware(device: torch.device, capability: tuple[int, int] | None) -> str:
    if device.type == "cpu":
        return f"CPU, {len(os.sched_getaffinity(0))} cores"
    cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    names = ", ".join(f"{card.name} ({card.total_memory / GIB:.0f} GiB)" for card in cards)
    return f"{names}, capability {'.'.join(map(str, capability or ()))}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def describe_machine() -> str:
    """Every attention backend, with the reason if it isn't usable here, and every architecture."""
    device, dtype, capability = _device()
    lines = ["attention backends (full: encoder; causal, cross, latent: decoder; bias: T5's):"]
    kinds: list[tuple[Kind, bool]] = [
        ("full", False),
        ("full", True),
        ("causal", False),
        ("causal", True),
        ("cross", False),
        ("latent", False),
    ]
    for name in BACKENDS:
        for kind, bias in kinds:
            why = refusal(
                name, AttentionSpec(kind, 8, 8, 64, 0.125, dtype, device, bias), capability
            )
            verdict = "yes" if why is None else f"no: {why}"
            lines.append(f"  {name:12} {kind + (' + bias' if bias else ''):14} {verdict}")
    groups = (
        ("an audio encoder", "full"),
        ("a text encoder", "ragged"),
        ("the decoder", "paged"),
    )
    for half, group in groups:
        order = ", ".join(ORDER[device.type, group])
        lines.append(f"  order of 'auto' for {half} on {device.type}: {order}")
    lines += ["", "architectures:"]
    return "\n".join(
        [
            *lines,
            *(
                f"  {name} ({family.input or 'text, no encoder'})"
                for name, family in families().items()
            ),
        ]
    )


def describe_model(name: str, options: Mapping[str, Any]) -> str:
    return in_lines(*facts_of_model(name, options))


def in_lines(facts: list[str], refusals: list[str]) -> str:
    return "\n".join([*facts, *(f"  an engine would not start: {why}" for why in refusals)])


def facts_of_model(name: str, options: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Lines about a model and its engine, and reasons why that would not start. Raises
    ConfigurationError or CheckpointError where neither can be described."""
    refusals: list[str] = []
    config = resolve(name, options)
    model = with_draft(ModelConfig.load(config.model), config)
    target = Target.resolve(config.model, model.raw, model.family)
    dtype = str(target.dtype).removeprefix("torch.")
    lines = [
        f"{name}: {model.architecture}, {dtype} on {target.device}",
        f"  folder: {model.path}",
        f"  encoder: {_encoder(model)}",
        f"  decoder: {_decoder(model)}",
        *_drafts(model, config, target),
        *_quantization(model),
        f"  memory: {_memory(model, config, target)}",
    ]
    config = fitted(model, config)
    layout = Layout.of(model, config)
    pages = None
    try:
        pages = layout.pages(model, config, target)
    except ConfigurationError as error:
        refusals.append(str(error))
    lines += layout.lines(model, config, target, pages, shows_cache=not refusals)
    halves = []
    if model.encoder is not None:
        shard = layout.first_shard("encoder")
        spec = encoder_spec(model.encoder, target, shard, config.encoder)
        halves.append(("encoder", config.encoder.attention_backend, [spec]))
    if model.decoder_half is not None:
        shard = layout.first_shard("decoder")
        specs = decoder_specs(model.decoder_half, target, config.decoder, shard)
        halves.append(("decoder", config.decoder.attention_backend, specs))
    for half, requested, specs in halves:
        kinds = ", ".join(_kind(spec) for spec in specs)
        try:
            lines.append(f"  {half} attention ({kinds}): {choose(half, requested, specs)}")
        except AttentionBackendError as error:
            refusals.append(f"{half} attention ({kinds}): {error}")
    return lines, refusals


def _kind(spec: AttentionSpec) -> str:
    return "full, float8" if spec.kind == "full" and spec.kv_dtype == FLOAT8 else spec.kind


def _memory(model: ModelConfig, config: EngineConfig, target: Target) -> str:
    """Bytes of the weights, as they are stored where they are quantised, and of the KV cache of one
    sequence of full length."""
    facts = [] if model.decoder_half is None else [_kv_memory(model, config, target)]
    if model.quantization is not None:
        size = sum((model.path / file).stat().st_size for file in _files(model.path))
        facts.insert(0, f"{size / MIB:.0f} MiB of weights")
    elif (count := count_parameters(model.path)) is not None:
        weights = count * target.dtype.itemsize / MIB
        facts.insert(0, f"{_in_words(count)} parameters, {weights:.0f} MiB")
    return "; ".join(facts) or "not known before it is loaded"


def _drafts(model: ModelConfig, config: EngineConfig, target: Target) -> list[str]:
    """Who drafts tokens, where somebody does; a model's weights come on top of `_memory`."""
    options = config.speculation
    if model.draft is not None:
        weights = draft_bytes(model, config, target) / MIB
        drafter = f"{options.speculative_model}, {_decoder(model.draft)}"
        return [f"  drafts: by {drafter}, {weights:.1f} MiB of weights beside the model's"]
    return ["  drafts: looked up in earlier text"] if options.speculative_method == "ngram" else []


def _quantization(model: ModelConfig) -> list[str]:
    """The scheme of a quantised checkpoint, and which layers are kept out."""
    if model.quantization is None:
        return []
    lines = [f"  quantised: {model.quantization.label}"]
    if kept := model.quantization.kept_out:
        more = f", and {len(kept) - 8} more" if len(kept) > 8 else ""
        lines.append(f"  kept in full: {', '.join(kept[:8])}{more}")
    return lines


def _files(folder: Path) -> set[str]:
    return set(files_by_tensor(folder).values())


def _kv_memory(model: ModelConfig, config: EngineConfig, target: Target) -> str:
    kv, states = bytes_of_sequence(model, config, target)
    beside = f" and {states / MIB:.1f} MiB of hidden states" if states else ""
    return f"{kv / MIB:.1f} MiB of KV cache{beside} for one sequence of full length"


def count_parameters(folder: Path) -> int | None:
    """From the headers of the safetensors files; None if the checkpoint has none."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        files = {folder / file for file in read_object(index)["weight_map"].values()}
    else:
        files = {folder / "model.safetensors"}
    if not all(file.exists() for file in files):
        return None
    return sum(_elements(file) for file in files)


def _elements(file: Path) -> int:
    """Elements of all tensors. A safetensors file begins with the length of its header (64 bits)
    and the header itself, JSON."""
    with file.open("rb") as content:
        (length,) = struct.unpack("<Q", content.read(8))
        header = json.loads(content.read(length))
    return sum(math.prod(row["shape"]) for name, row in header.items() if name != "__metadata__")


def _in_words(count: int) -> str:
    return f"{count / 1e9:.2f} billion" if count >= 1e9 else f"{count / 1e6:.1f} million"


def _encoder(model: ModelConfig) -> str:
    if model.encoder is None:
        return "none"
    return f"{_half(model.encoder)}, up to {model.max_encoder_len} tokens"


def _decoder(model: ModelConfig) -> str:
    if model.decoder_half is None:
        return "none"
    return f"{_half(model.decoder_half)}, up to {model.max_decoder_len} tokens"


def _half(half: Half) -> str:
    heads = f"{half.num_heads} heads of {half.head_dim}"
    if half.num_kv_heads != half.num_heads:
        heads += f" over {half.num_kv_heads} of keys and values"
    return f"{half.num_layers} layers of {half.hidden_size}, {heads}"
