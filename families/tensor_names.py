"""Names of tensors in checkpoints, and which stored tensors are not needed.

Each function takes the path of a tensor in our encoder or decoder (`layers.3.fc1.weight`) and
returns the names that checkpoints give it, in order of preference: a checkpoint of the bare model
has no `model.` in front, and embeddings that both halves share are stored once, under any of
their names.
"""

import re
from collections.abc import Mapping
from typing import Literal

Side = Literal["encoder", "decoder"]

EMBEDDING = "embed_tokens.weight"
HEAD = "lm_head.weight"
HEADS = (
    HEAD, "proj_out.weight", "output_projection.weight", "language_model.lm_head.weight"
)  # fmt: skip
HEAD_BIAS = "final_logits_bias"

# Patterns of tensor names that no half loads, and why they are not needed.
TIED_HEAD = {
    r"(language_model\.)?(lm_head|proj_out|output_projection)\.weight": (
        "the head is the embedding where config.json ties them"
    )
}
BART_IGNORED = {
    **TIED_HEAD,
    r"(model\.)?(encoder|decoder)\.version": "fairseq's mark of a file format",
    r"(model\.)?(encoder|decoder)\.embed_positions\.weights": (
        "computed, as in transformers: M2M-100's table is no parameter"
    ),
    r"(model\.)?(encoder|decoder)\.embed_positions\._float_tensor": (
        "fairseq's mark of a number format"
    ),
}
LLAMA_IGNORED = {
    **TIED_HEAD,
    r"(model\.)?layers\.\d+\.self_attn\.rotary_emb\.inv_freq": "computed from config.json",
}
T5_IGNORED = {
    **TIED_HEAD,
    r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight": (
        "cross-attention has no positions"
    ),
}

# Our sublayers, and what T5's checkpoints call them.
T5_SUBLAYERS: Mapping[Side, Mapping[str, str]] = {
    "encoder": {
        "attention": "layer.0.SelfAttention",
        "feed_forward": "layer.1.DenseReluDense",
    },
    "decoder": {
        "attention": "layer.0.SelfAttention",
        "cross_attention": "layer.1.EncDecAttention",
        "feed_forward": "layer.2.DenseReluDense",
    },
}


def _other(side: Side) -> Side:
    return "decoder" if side == "encoder" else "encoder"


def bart_names(side: Side, path: str) -> tuple[str, ...]:
    """BART's names: `layers.0.fc1.weight` is `model.encoder.layers.0.fc1.weight`."""
    if path == HEAD_BIAS:
        return (path,)
    if path == HEAD:
        return (*HEADS, *bart_names(side, EMBEDDING))
    path = path.removeprefix("embedding.")
    own = (f"model.{side}.{path}", f"{side}.{path}")
    if path != EMBEDDING:
        return own
    shared = ("model.shared.weight", "shared.weight")
    return (*own, *shared, f"model.{_other(side)}.{path}", f"{_other(side)}.{path}", *HEADS)


# What stands before the names of Llama's tensors: nothing in a bare model, and more where images
# are read as well.
LLAMA_PREFIXES = (
    "model.", "", "model.language_model.", "language_model.model.", "language_model.",
)  # fmt: skip


def llama_names(path: str) -> tuple[str, ...]:
    """Llama's names: `layers.3.attention.o_proj.weight` is
    `model.layers.3.self_attn.o_proj.weight`."""
    if path == HEAD:
        return *HEADS, *llama_names(EMBEDDING)
    if path == EMBEDDING:
        return *(f"{prefix}{EMBEDDING}" for prefix in LLAMA_PREFIXES), *HEADS
    stored = path.replace(".attention.norms.", ".attention.")
    stored = stored.replace(".attention.", ".self_attn.").replace(".feed_forward.", ".mlp.")
    return tuple(f"{prefix}{stored}" for prefix in LLAMA_PREFIXES)


def t5_names(side: Side, path: str) -> tuple[str, ...]:
    """T5's names: `layers.3.attention.q.weight` is
    `encoder.block.3.layer.0.SelfAttention.q.weight`."""
    if path == HEAD:
        return (HEAD, *t5_names(side, EMBEDDING))
    if path == EMBEDDING:
        return f"{side}.{EMBEDDING}", "shared.weight", f"{_other(side)}.{EMBEDDING}"
    return (_t5_block_name(side, path),)


def _t5_block_name(side: Side, path: str) -> str:
    """T5 stores a sublayer's norm beside the sublayer, and the bias of all layers in the first."""
    if path == "bias.weight":
        return f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    match = re.fullmatch(r"layers\.(\d+)\.(\w+)\.(.+)", path)
    if match is None:
        return f"{side}.{path}"
    layer, sublayer, tensor = match.groups()
    stored = T5_SUBLAYERS[side][sublayer]
    parent = stored.rpartition(".")[0] if tensor.startswith("layer_norm") else stored
    return f"{side}.block.{layer}.{parent}.{tensor}"
