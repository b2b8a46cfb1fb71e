"""Names of an image encoder's tensors in checkpoints; see `tensor_names`.

Each naming replaces the beginnings of the parts of our paths: `layers.3.attention.out.weight` is
`encoder.layers.3.self_attn.out_proj.weight` in SigLIP's.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Naming = Literal[
    "siglip", "vit", "internvl", "internvl_chat", "qwen2_vl", "swin", "beit", "florence2",
    "mllama",
]  # fmt: skip


@dataclass(frozen=True)
class Names:
    """`layers`: what stands before a layer's number. `in_layer`: of paths within a layer, `outside`
    of all others: what is stored for the longest of ours that a path begins with."""

    layers: str
    in_layer: Mapping[str, str]
    outside: Mapping[str, str]


def image_names(names: Names, prefixes: tuple[str, ...], path: str) -> tuple[str, ...]:
    """Names that checkpoints give the tensor at `path`, in order of preference: behind each of
    `prefixes`."""
    if match := re.fullmatch(r"layers\.(\d+)\.(.+)", path):
        layer, rest = match.groups()
        stored = f"{names.layers}.{layer}.{_renamed(rest, names.in_layer)}"
    else:
        stored = _renamed(path, names.outside)
    return tuple(f"{prefix}{stored}" for prefix in prefixes)


def _renamed(path: str, renames: Mapping[str, str]) -> str:
    """`path` with the longest of `renames` that it begins with replaced."""
    fitting = [ours for ours in renames if path == ours or path.startswith(f"{ours}.")]
    if not fitting:
        return path
    longest = max(fitting, key=len)
    return renames[longest] + path.removeprefix(longest)


SIGLIP = Names(
    layers="encoder.layers",
    in_layer={
        "norm1": "layer_norm1",
        "norm2": "layer_norm2",
        "attention": "self_attn",
        "attention.out": "self_attn.out_proj",
        "fc1": "mlp.fc1",
        "fc2": "mlp.fc2",
    },
    outside={
        "embeddings.patches": "embeddings.patch_embedding",
        "embeddings.class_token": "embeddings.class_embedding",
        "embeddings.positions": "embeddings.position_embedding.weight",
        "embeddings.norm": "pre_layrnorm",
        "norm": "post_layernorm",
        "pooler.norm": "post_layernorm",
        "pooler.probe": "head.probe",
        "pooler.attention": "head.attention",
        "pooler.feed_forward_norm": "head.layernorm",
        "pooler.fc1": "head.mlp.fc1",
        "pooler.fc2": "head.mlp.fc2",
        "pooler.projection": "visual_projection",
    },
)
VIT = Names(
    layers="encoder.layer",
    in_layer={
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attention.q_proj": "attention.attention.query",
        "attention.k_proj": "attention.attention.key",
        "attention.v_proj": "attention.attention.value",
        "attention.out": "attention.output.dense",
        "fc1": "intermediate.dense",
        "fc2": "output.dense",
    },
    outside={
        "embeddings.patches": "embeddings.patch_embeddings.projection",
        "embeddings.class_token": "embeddings.cls_token",
        "embeddings.positions": "embeddings.position_embeddings",
        "norm": "layernorm",
    },
)
BEIT = Names(
    layers=VIT.layers,
    in_layer={
        **VIT.in_layer,
        "attention.bias.weight": (
            "attention.attention.relative_position_bias.relative_position_bias_table"
        ),
        "attention.out.scale": "lambda_1",
        "fc2.scale": "lambda_2",
    },
    outside={
        **VIT.outside,
        "bias.weight": "encoder.relative_position_bias.relative_position_bias_table",
        "pooler.norm": "pooler.layernorm",
    },
)
INTERNVL = Names(
    layers="encoder.layer",
    in_layer={
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attention.out": "attention.projection_layer",
        "attention.out.scale": "lambda_1",
        "fc1": "mlp.fc1",
        "fc2": "mlp.fc2",
        "fc2.scale": "lambda_2",
    },
    outside={**VIT.outside},
)
INTERNVL_CHAT = Names(
    layers="encoder.layers",
    in_layer={
        "attention": "attn",
        "attention.out": "attn.proj",
        "attention.out.scale": "ls1",
        "fc1": "mlp.fc1",
        "fc2": "mlp.fc2",
        "fc2.scale": "ls2",
    },
    outside={
        "embeddings.patches": "embeddings.patch_embedding",
        "embeddings.class_token": "embeddings.class_embedding",
        "embeddings.positions": "embeddings.position_embedding",
    },
)
QWEN2_VL = Names(
    layers="blocks",
    in_layer={
        "attention": "attn",
        "attention.out": "attn.proj",
        "fc1": "mlp.fc1",
        "fc2": "mlp.fc2",
        "gate_proj": "mlp.gate_proj",
        "up_proj": "mlp.up_proj",
        "down": "mlp.down_proj",
    },
    outside={"patches": "patch_embed.proj", "norm": "merger.ln_q"},
)
SWIN = Names(  # layers of all stages are numbered together: see `SwinHalf`
    layers="encoder.layers",
    in_layer={
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attention.q_proj": "attention.self.query",
        "attention.k_proj": "attention.self.key",
        "attention.v_proj": "attention.self.value",
        "attention.bias.weight": "attention.self.relative_position_bias_table",
        "attention.out": "attention.output.dense",
        "fc1": "intermediate.dense",
        "fc2": "output.dense",
        "merge": "downsample",
    },
    outside={"embeddings.patches": "embeddings.patch_embeddings.projection", "norm": "layernorm"},
)
FLORENCE2 = Names(  # blocks and the text encoder's layers: see `Florence2Half`
    layers="",
    in_layer={},
    outside={
        "tower": "vision_tower",
        "rows": "multi_modal_projector.image_position_embed",
        "rows.projection": "multi_modal_projector.image_projection",
        "rows.norm": "multi_modal_projector.image_proj_norm",
    },
)
MLLAMA = Names(  # layers of both transformers are numbered together: see `MllamaVisionHalf`
    layers="transformer.layers",
    in_layer={
        "norm1": "input_layernorm",
        "norm2": "post_attention_layernorm",
        "attention": "self_attn",
        "attention.out": "self_attn.o_proj",
        "attention.out.gate": "gate_attn",
        "fc1": "mlp.fc1",
        "fc2": "mlp.fc2",
        "fc2.gate": "gate_ffn",
    },
    outside={
        "embeddings.patches": "patch_embedding",
        "embeddings.class_token": "class_embedding",
        "embeddings.tiles": "pre_tile_positional_embedding",
        "embeddings.tiles.table": "pre_tile_positional_embedding.embedding.weight",
        "embeddings.positions": "gated_positional_embedding",
        "embeddings.positions.of_tile": "gated_positional_embedding.embedding",
        "embeddings.positions.table": "gated_positional_embedding.tile_embedding.weight",
        "embeddings.norm": "layernorm_pre",
        "between.norm": "layernorm_post",
        "between.tiles": "post_tile_positional_embedding",
        "between.tiles.table": "post_tile_positional_embedding.embedding.weight",
    },
)
NAMES: Mapping[Naming, Names] = {
    "siglip": SIGLIP,
    "vit": VIT,
    "internvl": INTERNVL,
    "internvl_chat": INTERNVL_CHAT,
    "qwen2_vl": QWEN2_VL,
    "swin": SWIN,
    "beit": BEIT,
    "florence2": FLORENCE2,
    "mllama": MLLAMA,
}
