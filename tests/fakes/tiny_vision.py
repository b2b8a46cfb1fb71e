"""Small random checkpoints of vision encoders, saved with transformers, and images for them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import (
    BeitConfig,
    BeitModel,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    DeiTConfig,
    DeiTModel,
    DonutSwinConfig,
    DonutSwinModel,
    InternVLVisionConfig,
    InternVLVisionModel,
    PreTrainedModel,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    SwinConfig,
    SwinModel,
    ViTConfig,
    ViTModel,
)
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
)
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

from antiphon.families.image_halves import ImageShape
from antiphon.inputs.images.pixels import Pixels

SIZES = {
    "hidden_size": 36, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 3, "image_size": 24, "patch_size": 8,
}  # fmt: skip
TEXT = {
    "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 1,
    "num_attention_heads": 2, "vocab_size": 50,
}  # fmt: skip


def siglip_of_72() -> PreTrainedModel:
    """Heads of the size that published SigLIP models have."""
    sizes = {**SIZES, "hidden_size": 144, "num_attention_heads": 2}
    return SiglipVisionModel(SiglipVisionConfig(**sizes))


def internvit_6b() -> PreTrainedModel:
    """With the norms and the odd number of heads of InternViT-6B."""
    sizes = {**SIZES, "hidden_size": 40, "num_attention_heads": 5, "image_size": [24, 24]}
    return InternVLVisionModel(
        InternVLVisionConfig(
            **{**sizes, "patch_size": [8, 8]}, use_qk_norm=True, norm_type="rms_norm"
        )
    )


def internvit_300m() -> PreTrainedModel:
    return InternVLVisionModel(
        InternVLVisionConfig(**SIZES, attention_bias=True, use_mean_pooling=False)
    )


VISION: dict[str, Callable[[], PreTrainedModel]] = {
    "siglip_vision": siglip_of_72,
    "siglip": lambda: SiglipModel(SiglipConfig(text_config=TEXT, vision_config=SIZES)),
    "clip_vision": lambda: CLIPVisionModel(CLIPVisionConfig(**SIZES)),
    "clip_projection": lambda: CLIPVisionModelWithProjection(
        CLIPVisionConfig(**SIZES, projection_dim=20)
    ),
    "clip": lambda: CLIPModel(CLIPConfig(text_config=TEXT, vision_config=SIZES, projection_dim=20)),
    "vit": lambda: ViTModel(ViTConfig(**SIZES)),
    "vit_without_bias": lambda: ViTModel(ViTConfig(**SIZES, qkv_bias=False)),
    "deit": lambda: DeiTModel(DeiTConfig(**SIZES)),
    "beit": lambda: BeitModel(BeitConfig(**SIZES, use_relative_position_bias=True)),
    "beit_shared": lambda: BeitModel(
        BeitConfig(
            **SIZES,
            use_relative_position_bias=True,
            use_shared_relative_position_bias=True,
            use_mean_pooling=False,
            use_mask_token=True,
        )
    ),
    "dit": lambda: BeitModel(
        BeitConfig(**SIZES, use_absolute_position_embeddings=True, layer_scale_init_value=0.0)
    ),
    "internvit_300m": internvit_300m,
    "internvit_6b": internvit_6b,
}


def make(name: str, folder: Path) -> PreTrainedModel:
    """Saves the checkpoint `name` in `folder`. Returns the transformers model, the oracle."""
    return save(VISION[name](), folder)


def save(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Gives `model` weights that make every layer matter, and saves it."""
    torch.manual_seed(7)
    model = model.eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.uniform_(0.5, 1.5)
            elif "lambda" in name:
                parameter.uniform_(-1.5, 1.5)
            elif parameter.dim() < 2 or "token" in name or "position" in name:
                parameter.normal_(std=0.5)
            else:
                parameter.normal_(std=1.5 * parameter[0].numel() ** -0.5)
    model.save_pretrained(folder)
    return model


def pixels(seed: int, *shape: int, size: tuple[int, int] = (0, 0)) -> np.ndarray:
    """A random image as encoders take it."""
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    first, second, third, fourth = shape
    return Pixels(ImageShape((first, second, third, fourth), size), values).packed()


def values(packed: np.ndarray) -> torch.Tensor:
    """What transformers takes for a packed image."""
    return torch.from_numpy(Pixels.unpacked(packed).values)


QWEN2_VL = {
    "depth": 2, "embed_dim": 48, "hidden_size": 20, "num_heads": 3, "mlp_ratio": 2, "patch_size": 4,
}  # fmt: skip
QWEN2_5_VL = {
    "depth": 3, "hidden_size": 48, "out_hidden_size": 20, "num_heads": 3, "intermediate_size": 40,
    "patch_size": 4, "window_size": 16, "fullatt_block_indexes": [1],
}  # fmt: skip
PATCH_FEATURES = 3 * 2 * 4 * 4
QWEN: dict[str, Callable[[], PreTrainedModel]] = {
    "qwen2_vl": lambda: Qwen2VisionTransformerPretrainedModel(Qwen2VLVisionConfig(**QWEN2_VL)),
    "qwen2_5_vl": lambda: Qwen2_5_VisionTransformerPretrainedModel(
        Qwen2_5_VLVisionConfig(**QWEN2_5_VL)
    ),
}


def qwen_pixels(seed: int, frames: int, rows: int, columns: int) -> np.ndarray:
    """An image, or a video of several times two frames, of patches."""
    return pixels(seed, frames, rows, columns, PATCH_FEATURES)


SWIN_SIZES = {
    "image_size": [40, 56], "patch_size": 4, "embed_dim": 24, "depths": [2, 3], "num_heads": [3, 6],
    "window_size": 3, "mlp_ratio": 2.0,
}  # fmt: skip
SWIN: dict[str, Callable[[], PreTrainedModel]] = {
    "swin": lambda: SwinModel(SwinConfig(**SWIN_SIZES)),
    "donut_swin": lambda: DonutSwinModel(DonutSwinConfig(**SWIN_SIZES, qkv_bias=False)),
}
