"""Published configurations of models that read images, and of vision encoders alone.

The numbers are from the files of the checkpoints on huggingface.co.
"""

import json
from itertools import product
from pathlib import Path
from typing import Any

CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
HALF = [0.5, 0.5, 0.5]

_SIGLIP: dict[str, Any] = {
    "architectures": ["SiglipVisionModel"], "model_type": "siglip_vision_model",
    "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27,
    "num_attention_heads": 16, "image_size": 384, "patch_size": 14,
    "hidden_act": "gelu_pytorch_tanh",
}  # fmt: skip
_INTERNVIT: dict[str, Any] = {
    "architectures": ["InternVLVisionModel"], "model_type": "internvl_vision",
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
    "num_attention_heads": 16, "image_size": [448, 448], "patch_size": [14, 14],
    "attention_bias": True, "layer_norm_eps": 1e-6,
}  # fmt: skip
_QWEN2_VL: dict[str, Any] = {
    "architectures": ["Qwen2VisionTransformerPretrainedModel"], "model_type": "qwen2_vl_vision",
    "depth": 32, "embed_dim": 1280, "hidden_size": 3584, "num_heads": 16, "mlp_ratio": 4,
    "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2,
}  # fmt: skip
_QWEN2_5_VL: dict[str, Any] = {
    "architectures": ["Qwen2_5_VisionTransformerPretrainedModel"],
    "model_type": "qwen2_5_vl_vision",
    "depth": 32, "hidden_size": 1280, "out_hidden_size": 3584, "num_heads": 16,
    "intermediate_size": 3420, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2,
    "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31], "tokens_per_second": 2,
}  # fmt: skip
_VIT: dict[str, Any] = {
    "architectures": ["ViTModel"], "model_type": "vit", "hidden_size": 1024,
    "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "image_size": 384, "patch_size": 16,
}  # fmt: skip

ENCODERS: dict[str, dict[str, Any]] = {
    "siglip-so400m-384": _SIGLIP,
    "clip-vit-large-336": {
        "architectures": ["CLIPVisionModel"], "model_type": "clip_vision_model",
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
        "num_attention_heads": 16, "image_size": 336, "patch_size": 14, "projection_dim": 768,
        "hidden_act": "quick_gelu",
    },
    "internvit-300m-448": _INTERNVIT,
    "internvit-6b-448": {
        **_INTERNVIT, "hidden_size": 3200, "intermediate_size": 12800, "num_hidden_layers": 45,
        "num_attention_heads": 25, "attention_bias": False, "use_qk_norm": True,
        "norm_type": "rms_norm",
    },
    "qwen2-vl-vision": _QWEN2_VL,
    "qwen2.5-vl-vision": _QWEN2_5_VL,
    "swin-base-donut": {
        "architectures": ["DonutSwinModel"], "model_type": "donut-swin", "embed_dim": 128,
        "depths": [2, 2, 14, 2], "num_heads": [4, 8, 16, 32], "window_size": 10,
        "image_size": [2560, 1920], "patch_size": 4,
    },
    "vit-large-384": _VIT,
    "deit-base-384": {
        **_VIT, "architectures": ["DeiTModel"], "model_type": "deit", "hidden_size": 768,
        "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    },
}  # fmt: skip

_QWEN2_7B: dict[str, Any] = {
    "model_type": "qwen2", "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944,
    "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
    "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
    "bos_token_id": 151643, "eos_token_id": 151645, "tie_word_embeddings": False,
}  # fmt: skip
_RESOLUTIONS = [[384 * rows, 384 * columns] for rows, columns in product(range(1, 7), range(1, 7))]
_MROPE = {"type": "default", "rope_type": "default", "mrope_section": [16, 24, 24]}

MODELS: dict[str, dict[str, Any]] = {
    "qwen2.5-vl-7b": {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl",
        "image_token_id": 151655, "video_token_id": 151656, "vision_start_token_id": 151652,
        "vision_end_token_id": 151653, "vision_config": {**_QWEN2_5_VL, "model_type": "qwen2_5_vl"},
        "text_config": {
            **_QWEN2_7B, "model_type": "qwen2_5_vl_text",
            "rope_scaling": _MROPE, "rope_parameters": {**_MROPE, "rope_theta": 1e6},
        },
    },
    "llava-onevision-7b": {
        "architectures": ["LlavaOnevisionForConditionalGeneration"],
        "model_type": "llava_onevision", "image_token_index": 151646, "video_token_index": 151647,
        "image_grid_pinpoints": _RESOLUTIONS, "vision_aspect_ratio": "anyres_max_9",
        "vision_feature_layer": -1, "vision_feature_select_strategy": "full",
        "vision_config": {**_SIGLIP, "num_hidden_layers": 26, "vision_use_head": False},
        "text_config": {**_QWEN2_7B, "vocab_size": 152000},
    },
    "internvl3.5-4b": {
        "architectures": ["InternVLForConditionalGeneration"], "model_type": "internvl",
        "image_token_id": 151671, "image_seq_length": 256, "downsample_ratio": 0.5,
        "vision_feature_layer": -1, "vision_config": _INTERNVIT,
        "text_config": {
            **_QWEN2_7B, "model_type": "qwen3", "vocab_size": 151936, "hidden_size": 2560,
            "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32,
            "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 40960,
            "tie_word_embeddings": True,
        },
    },
}  # fmt: skip

_PREPROCESSORS: dict[str, dict[str, Any]] = {  # by model_type
    "qwen2_5_vl": {
        "image_processor_type": "Qwen2VLImageProcessor",
        "size": {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 16384},
        "patch_size": 14, "merge_size": 2, "temporal_patch_size": 2,
        "image_mean": CLIP_MEAN, "image_std": CLIP_STD,
    },
    "llava_onevision": {
        "image_processor_type": "LlavaOnevisionImageProcessor",
        "size": {"height": 384, "width": 384}, "image_grid_pinpoints": _RESOLUTIONS,
        "image_mean": HALF, "image_std": HALF, "resample": 3, "do_pad": True,
    },
    "internvl": {
        "image_processor_type": "GotOcr2ImageProcessor", "size": {"height": 448, "width": 448},
        "max_patches": 12, "min_patches": 1, "crop_to_patches": True, "resample": 3,
        "image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD,
    },
}  # fmt: skip


def write_preprocessor(config: dict[str, Any], folder: Path) -> None:
    """Its settings for images, of a model that reads them in prompts."""
    if (settings := _PREPROCESSORS.get(config["model_type"])) is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(settings))


def named_tokens(config: dict[str, Any]) -> dict[int, str]:
    """Tokens that are found by their names, by id."""
    if config["model_type"] != "internvl":
        return {}
    return {config["image_token_id"] - 2: "<img>", config["image_token_id"] - 1: "</img>"}


def small(config: dict[str, Any]) -> dict[str, Any]:
    """`config` of `MODELS` with the same parts in small: for trying a script out on a CPU."""
    text = {
        "vocab_size": 152064, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    }  # fmt: skip
    sections = {"mrope_section": [2, 3, 3]}
    settings = {**config["text_config"], **text}
    for name in ("rope_scaling", "rope_parameters"):
        if name in settings:
            settings[name] = {**settings[name], **sections}
    vision = small_encoder(config["vision_config"])
    if "out_hidden_size" in vision:
        vision["out_hidden_size"] = 64
    return {**config, "text_config": settings, "vision_config": vision}


def small_encoder(config: dict[str, Any]) -> dict[str, Any]:
    """`config` of `ENCODERS`, or of a part of `MODELS`, with the same images and small layers."""
    sizes = {
        "hidden_size": 64, "embed_dim": 64, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "depth": 2, "fullatt_block_indexes": [1], "projection_dim": 16,
    }  # fmt: skip
    if "depths" in config:
        sizes = {"embed_dim": 16, "depths": [1, 1], "image_size": [160, 160]}
        return {**config, **sizes, "num_heads": [2, 4]}
    if "depth" in config:
        sizes["num_heads"] = 2
    return {**config, **{name: size for name, size in sizes.items() if name in config}}


def threes(text: str) -> list[tuple[int, int, int]]:
    """As in "16x224x224,1x1344x1344"."""
    made = []
    for part in text.split(","):
        first, second, third = map(int, part.split("x"))
        made.append((first, second, third))
    return made
