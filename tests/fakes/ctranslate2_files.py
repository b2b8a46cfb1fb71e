"""Writes folders as CTranslate2's converter does, byte for byte, from transformers' models.

CTranslate2 itself is too large to install for a test.
"""

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

VERSION, TYPES = 6, ("float32", "int8", "int16", "int32", "float16", "bfloat16")
ACTIVATIONS = {"relu": 0, "gelu_new": 1, "swish": 2, "silu": 2, "gelu": 3}
SCALAR_TYPES = {
    "num_heads": "int16", "alignment_heads": "int16", "alignment_layer": "int16",
    "relative_attention_max_distance": "int32", "queries_scale": "float32",
    "scale_outputs": "float32",
}  # fmt: skip
Variables = dict[str, torch.Tensor]


def write(
    model: PreTrainedModel,
    tokens: list[str],
    folder: Path,
    quantization: str | None = None,
    **config: Any,
) -> Variables:
    """Returns the variables as they are stored. `config`: of config.json."""
    variables = variables_of(model)
    aliases = _aliases(variables)
    stored = _quantized({n: v for n, v in variables.items() if n not in aliases}, quantization)
    folder.mkdir(parents=True, exist_ok=True)
    is_whisper = model.config.model_type == "whisper"
    kind, revision = ("WhisperSpec", 3) if is_whisper else ("TransformerSpec", 7)
    (folder / "model.bin").write_bytes(serialized(kind, revision, stored, aliases))
    (folder / "config.json").write_text(json.dumps(config))
    name = "vocabulary" if is_whisper else "shared_vocabulary"
    (folder / f"{name}.json").write_text(json.dumps(tokens))
    return stored


def serialized(kind: str, revision: int, variables: Variables, aliases: Mapping[str, str]) -> bytes:
    def string(text: str) -> bytes:
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    parts = [struct.pack("<I", VERSION), string(kind), struct.pack("<II", revision, len(variables))]
    for name, value in sorted(variables.items()):
        shape, dtype = value.shape, str(value.dtype).removeprefix("torch.")
        parts += [string(name), struct.pack(f"<B{len(shape)}I", len(shape), *shape)]
        parts += [struct.pack("<BI", TYPES.index(dtype), value.nbytes)]
        parts += [value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()]
    parts += [struct.pack("<I", len(aliases))]
    parts += [string(alias) + string(name) for alias, name in sorted(aliases.items())]
    return b"".join(parts)


def variables_of(model: PreTrainedModel) -> Variables:
    """Of a model of BART's or T5's structure, or Whisper."""
    tensors = {name: value.detach() for name, value in model.state_dict().items()}
    if model.config.model_type in ("t5", "mt5"):
        return _t5(model.config, tensors)
    return _bart(model, tensors)


def _scalar(name: str, value: float) -> torch.Tensor:
    dtype = SCALAR_TYPES.get(name.rpartition("/")[2], "int8")
    return torch.tensor(value, dtype=getattr(torch, dtype))


def _switches(side: str, heads: int, activation: str, **more: float) -> Variables:
    common = {"num_heads": heads, "pre_norm": 1, "activation": ACTIVATIONS[activation]}
    own = (
        {"embeddings_merge": 0, "multi_query_attention": 0}
        if side == "encoder"
        else {
            "alibi": 0, "alibi_use_positive_positions": 0, "scale_alibi": 0,
            "alignment_heads": 1, "alignment_layer": -1, "start_from_zero_embedding": 0,
        }
    )  # fmt: skip
    return {
        f"{side}/{name}": _scalar(name, value) for name, value in {**common, **own, **more}.items()
    }


def _stacked(tensors: Mapping[str, torch.Tensor], names: list[str], leaf: str) -> torch.Tensor:
    """Whisper's keys have no bias: zeros take its place."""
    weights = [tensors[f"{name}.weight"] for name in names]
    return torch.cat(
        [
            tensors.get(f"{name}.{leaf}", weight.new_zeros(len(weight)))
            for name, weight in zip(names, weights, strict=True)
        ]
    )


def _bart(model: PreTrainedModel, tensors: Mapping[str, torch.Tensor]) -> Variables:
    config, kind = model.config, model.config.model_type
    is_whisper, is_marian = kind == "whisper", kind == "marian"
    variables: Variables = {}
    for side in ("encoder", "decoder"):
        prefix, heads = f"model.{side}", getattr(config, f"{side}_attention_heads")
        own = _switches(side, heads, config.activation_function)
        own[f"{side}/pre_norm"] = _scalar("pre_norm", kind not in ("bart", "marian"))
        scale = math.sqrt(config.d_model) if config.scale_embedding else 1.0
        own[f"{side}/scale_embeddings"] = torch.tensor(scale)
        if is_whisper:
            own[f"{side}/scale_embeddings"] = _scalar("scale_embeddings", 0)
            if side == "encoder":
                own = {name: v for name, v in own.items() if name.endswith("num_heads")}
                for name in ("conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias"):
                    own[f"encoder/{name.replace('.', '/')}"] = tensors[f"{prefix}.{name}"]
        for norm in ("layer_norm", "layernorm_embedding"):
            if f"{prefix}.{norm}.weight" in tensors:
                own |= _norm(f"{side}/{norm}", tensors, f"{prefix}.{norm}")
        own[f"{side}/position_encodings/encodings"] = _positions(model, tensors, side)
        for number in range(getattr(config, f"{side}_layers")):
            own |= _bart_layer(side, number, tensors, not is_whisper)
        variables |= own
        words = "embeddings_0" if side == "encoder" else "embeddings"
        if f"{prefix}.embed_tokens.weight" in tensors:
            variables[f"{side}/{words}/weight"] = tensors[f"{prefix}.embed_tokens.weight"]
    head = "proj_out" if is_whisper else "lm_head"
    variables["decoder/projection/weight"] = tensors[f"{head}.weight"]
    if (bias := tensors.get("final_logits_bias")) is not None and bias.any():
        variables["decoder/projection/bias"] = bias[0]
    if is_marian:
        variables["decoder/start_from_zero_embedding"] = _scalar("", 1)
        for name in ("encoder/embeddings_0", "decoder/embeddings", "decoder/projection"):
            variables[f"{name}/weight"] = variables[f"{name}/weight"][:-1]
        variables["decoder/projection/bias"] = tensors["final_logits_bias"][0, :-1]
    return variables


def _positions(
    model: PreTrainedModel, tensors: Mapping[str, torch.Tensor], side: str
) -> torch.Tensor:
    module = getattr(model.model, side).embed_positions
    if model.config.model_type == "m2m_100":
        return module.weights[module.offset :]
    return tensors[f"model.{side}.embed_positions.weight"][getattr(module, "offset", 0) :]


def _norm(target: str, tensors: Mapping[str, torch.Tensor], source: str) -> Variables:
    norm = {f"{target}/gamma": tensors[f"{source}.weight"]}
    if f"{source}.bias" in tensors:
        norm[f"{target}/beta"] = tensors[f"{source}.bias"]
    return norm


def _bart_layer(
    side: str, number: int, tensors: Mapping[str, torch.Tensor], key_bias: bool
) -> Variables:
    layer, target = f"model.{side}.layers.{number}", f"{side}/layer_{number}"
    linear = {
        "self_attention/linear_0": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        "self_attention/linear_1": ["self_attn.out_proj"],
        "ffn/linear_0": ["fc1"],
        "ffn/linear_1": ["fc2"],
    }
    norms = {"self_attention": "self_attn_layer_norm", "ffn": "final_layer_norm"}
    if side == "decoder":
        norms["attention"] = "encoder_attn_layer_norm"
        linear |= {
            "attention/linear_0": ["encoder_attn.q_proj"],
            "attention/linear_1": ["encoder_attn.k_proj", "encoder_attn.v_proj"],
            "attention/linear_2": ["encoder_attn.out_proj"],
        }
    variables: Variables = {}
    for module, norm in norms.items():
        variables |= _norm(f"{target}/{module}/layer_norm", tensors, f"{layer}.{norm}")
    for module, parts in linear.items():
        names = [f"{layer}.{part}" for part in parts]
        for leaf in ("weight", "bias"):
            variables[f"{target}/{module}/{leaf}"] = _stacked(tensors, names, leaf)
    return variables


def _t5(config: Any, tensors: Mapping[str, torch.Tensor]) -> Variables:
    variables: Variables = {}
    for side in ("encoder", "decoder"):
        own = _switches(side, config.num_heads, config.dense_act_fn, scale_embeddings=0)
        own |= _norm(f"{side}/layer_norm", tensors, f"{side}.final_layer_norm")
        words = "embeddings_0" if side == "encoder" else "embeddings"
        own[f"{side}/{words}/weight"] = tensors["shared.weight"]
        depth = config.num_layers if side == "encoder" else config.num_decoder_layers
        for number in range(depth):
            own |= _t5_layer(side, number, tensors, config)
        variables |= own
    variables["decoder/projection/weight"] = tensors["lm_head.weight"]
    if getattr(config, "scale_decoder_outputs", False):
        variables["decoder/scale_outputs"] = _scalar("scale_outputs", config.d_model**-0.5)
    return variables


def _t5_layer(
    side: str, number: int, tensors: Mapping[str, torch.Tensor], config: Any
) -> Variables:
    block, target = f"{side}.block.{number}", f"{side}/layer_{number}"
    own, cross = "layer.0.SelfAttention", "layer.1.EncDecAttention"
    dense = f"layer.{1 if side == 'encoder' else 2}"
    inner = ["wi_0", "wi_1"] if config.is_gated_act else ["wi"]
    linear = {
        "self_attention/linear_0": [f"{own}.q", f"{own}.k", f"{own}.v"],
        "self_attention/linear_1": [f"{own}.o"],
        **{
            f"ffn/linear_0{'_noact' if part == 'wi_1' else ''}": [f"{dense}.DenseReluDense.{part}"]
            for part in inner
        },
        "ffn/linear_1": [f"{dense}.DenseReluDense.wo"],
    }
    norms = {"self_attention": "layer.0", "ffn": dense}
    if side == "decoder":
        norms["attention"] = "layer.1"
        linear |= {
            "attention/linear_0": [f"{cross}.q"],
            "attention/linear_1": [f"{cross}.k", f"{cross}.v"],
            "attention/linear_2": [f"{cross}.o"],
        }
    variables: Variables = {}
    for module, norm in norms.items():
        variables |= _norm(f"{target}/{module}/layer_norm", tensors, f"{block}.{norm}.layer_norm")
        if module != "ffn":
            variables[f"{target}/{module}/queries_scale"] = _scalar("queries_scale", 1.0)
    for module, parts in linear.items():
        names = [f"{block}.{part}" for part in parts]
        variables[f"{target}/{module}/weight"] = _stacked(tensors, names, "weight")
    bias = f"{side}.block.0.{own}.relative_attention_bias.weight"
    variables[f"{target}/self_attention/relative_attention_bias"] = tensors[bias]
    variables[f"{target}/self_attention/relative_attention_max_distance"] = _scalar(
        "relative_attention_max_distance", config.relative_attention_max_distance
    )
    return variables


def _aliases(variables: Variables) -> dict[str, str]:
    """Equal arrays are stored once, under the first of their names."""
    aliases: dict[str, str] = {}
    names = sorted(name for name, value in variables.items() if value.dim())
    for place, name in enumerate(names):
        value = variables[name]
        for earlier in names[:place]:
            other = variables[earlier]
            if value.dtype == other.dtype and torch.equal(value, other):
                aliases[name] = earlier
                break
    return aliases


def _quantized(variables: Variables, quantization: str | None) -> Variables:
    stored: Variables = {}
    weights = ("linear_", "embeddings", "projection/", "conv")
    for name, value in variables.items():
        *_, module, leaf = name.split("/")
        is_weight = leaf == "weight" and module.startswith(tuple(w.strip("/") for w in weights))
        if not value.dim() or quantization is None:
            stored[name] = value
        elif is_weight and quantization.startswith("int8"):
            stored[name], stored[f"{name}_scale"] = _eight_bits(value)
        else:
            plain = quantization.removeprefix("int8").removeprefix("_")
            dtype = getattr(torch, plain) if plain else value.dtype
            stored[name] = value.to(dtype)
    return stored


def _eight_bits(value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    rows = value.float().numpy().reshape(len(value), -1)
    largest = np.amax(np.absolute(rows), axis=1)
    largest[largest == 0] = 127.0
    scale = (127.0 / largest).astype(np.float32)
    values = np.rint(rows * scale[:, None]).astype(np.int8).reshape(value.shape)
    return torch.from_numpy(values), torch.from_numpy(scale)
