"""Small random checkpoints that read images in a decoder's prompt, saved with transformers."""

import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_decoders import liven
from tiny_models import VOCAB
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    MistralConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3Config,
    SiglipVisionConfig,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

IMAGE, BEGIN, END, VIDEO = VOCAB - 1, VOCAB - 2, VOCAB - 3, VOCAB - 4
TEXT: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 48, "intermediate_size": 72, "num_hidden_layers": 3,
    "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "rms_norm_eps": 1e-5,
}  # fmt: skip
TEMPLATE = (
    "<s>{% for message in messages %}{{ message.role }} "
    "{% for part in message.content %}{% if part.type == 'image' %}<image> "
    "{% elif part.type == 'video' %}<video> {% else %}{{ part.text }} {% endif %}"
    "{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


def llava() -> tuple[PreTrainedModel, Any]:
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        image_size=28, patch_size=7, projection_dim=16,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=LlamaConfig(**TEXT), image_token_index=IMAGE,
        image_seq_length=16,
    )  # fmt: skip
    size = {"height": 28, "width": 28}
    processor = CLIPImageProcessorPil(size=size, crop_size=size, do_center_crop=False)
    return LlavaForConditionalGeneration(config), processor


def internvl() -> tuple[PreTrainedModel, Any]:
    vision = {
        "hidden_size": 40, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 5, "image_size": [28, 28], "patch_size": [7, 7],
        "use_qk_norm": True, "norm_type": "rms_norm",
    }  # fmt: skip
    text = Qwen3Config(**TEXT, head_dim=16)
    config = InternVLConfig(
        vision_config=vision, text_config=text, image_token_id=IMAGE, image_seq_length=4
    )
    processor = GotOcr2ImageProcessorPil(size={"height": 28, "width": 28}, max_patches=4)
    return InternVLForConditionalGeneration(config), processor


QWEN_TEXT = {
    **TEXT,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "mrope_section": [1, 1, 2]},
}
QWEN_IDS = {
    "image_token_id": IMAGE, "vision_start_token_id": BEGIN, "vision_end_token_id": END,
    "video_token_id": VIDEO,
}  # fmt: skip


def qwen_processor() -> Any:
    return Qwen2VLImageProcessorPil(
        patch_size=4, merge_size=2, temporal_patch_size=2,
        size={"shortest_edge": 16 * 16, "longest_edge": 48 * 48},
    )  # fmt: skip


def qwen2_vl() -> tuple[PreTrainedModel, Any]:
    vision = {
        "depth": 2, "embed_dim": 32, "num_heads": 4, "hidden_size": 48, "mlp_ratio": 2,
        "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2,
    }  # fmt: skip
    config = Qwen2VLConfig(vision_config=vision, text_config=QWEN_TEXT, **QWEN_IDS)
    return Qwen2VLForConditionalGeneration(config), qwen_processor()


def qwen2_5_vl() -> tuple[PreTrainedModel, Any]:
    vision = {
        "depth": 3, "hidden_size": 32, "num_heads": 4, "out_hidden_size": 48,
        "intermediate_size": 56, "patch_size": 4, "spatial_merge_size": 2,
        "temporal_patch_size": 2, "window_size": 16, "fullatt_block_indexes": [1],
    }  # fmt: skip
    config = Qwen2_5_VLConfig(vision_config=vision, text_config=QWEN_TEXT, **QWEN_IDS)
    return Qwen2_5_VLForConditionalGeneration(config), qwen_processor()


def llava_of_layers() -> tuple[PreTrainedModel, Any]:
    """Reads the states of three layers, that of the class token included."""
    model, processor = llava()
    settings = {**model.config.to_dict(), "image_seq_length": 17}
    features = {"vision_feature_layer": [-1, 1, -2], "vision_feature_select_strategy": "full"}
    return LlavaForConditionalGeneration(LlavaConfig(**{**settings, **features})), processor


def llava_onevision() -> tuple[PreTrainedModel, Any]:
    """At most two tiles' patches are kept of an image; there may be six."""
    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        image_size=24, patch_size=6, vision_use_head=False,
    )  # fmt: skip
    sizes = [[24, 24], [24, 48], [48, 24], [48, 48], [24, 72], [72, 24], [72, 48]]
    config = LlavaOnevisionConfig(
        vision_config=vision, text_config=Qwen2Config(**TEXT), image_token_index=IMAGE,
        video_token_index=VOCAB - 4, image_grid_pinpoints=sizes, vision_aspect_ratio="anyres_max_2",
    )  # fmt: skip
    processor = LlavaOnevisionImageProcessorPil(
        size={"height": 24, "width": 24}, image_grid_pinpoints=sizes
    )
    return LlavaOnevisionForConditionalGeneration(config), processor


def llava_next() -> tuple[PreTrainedModel, Any]:
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        image_size=24, patch_size=12, projection_dim=16,
    )  # fmt: skip
    sizes = [[24, 48], [48, 24], [48, 48], [72, 24]]
    config = LlavaNextConfig(
        vision_config=vision, text_config=MistralConfig(**TEXT, sliding_window=None),
        image_token_index=IMAGE, image_grid_pinpoints=sizes,
    )  # fmt: skip
    processor = LlavaNextImageProcessorPil(
        size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24},
        image_grid_pinpoints=sizes,
    )  # fmt: skip
    return LlavaNextForConditionalGeneration(config), processor


VLMS: dict[str, Callable[[], tuple[PreTrainedModel, Any]]] = {
    "llava": llava,
    "llava_of_layers": llava_of_layers,
    "llava_next": llava_next,
    "llava_onevision": llava_onevision,
    "internvl": internvl,
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": qwen2_5_vl,
}


def make_vlm(name: str, folder: Path) -> PreTrainedModel:
    """Saves a checkpoint with tokenizer and image processor in `folder`. Returns transformers'
    model."""
    torch.manual_seed(sum(map(ord, name)))
    model, processor = VLMS[name]()
    model.eval()
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            liven(path, parameter)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return model


VISION_NAMES = {
    "vision_tower.": "vision_model.",
    "encoder.layer.": "encoder.layers.",
    "cls_token": "class_embedding",
    "position_embeddings": "position_embedding",
    "patch_embeddings.projection": "patch_embedding",
    "lambda_": "ls",
    "attention.projection_layer": "attn.proj",
    "attention.": "attn.",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "multi_modal_projector.layer_norm": "mlp1.0",
    "multi_modal_projector.linear_1": "mlp1.1",
    "multi_modal_projector.linear_2": "mlp1.3",
}


def make_internvl_chat(folder: Path) -> PreTrainedModel:
    """As `make_vlm("internvl", folder)`, in the format of InternVL's authors: their names of
    tensors and settings, CLIP's image processor, and a chat template of text alone."""
    model = make_vlm("internvl", folder)
    config = json.loads((folder / "config.json").read_text())
    vision, tiles = (
        config["vision_config"],
        json.loads((folder / "preprocessor_config.json").read_text()),
    )
    authors = {
        "architectures": ["InternVLChatModel"], "model_type": "internvl_chat",
        "auto_map": {"AutoConfig": "configuration_internvl_chat.InternVLChatConfig"},
        "downsample_ratio": 0.5, "dynamic_image_size": True, "force_image_size": 28,
        "max_dynamic_patch": tiles["max_patches"], "min_dynamic_patch": 1, "ps_version": "v2",
        "select_layer": -1, "template": "internvl2_5", "torch_dtype": "float32",
        "use_thumbnail": True, "llm_config": config["text_config"],
        "vision_config": {
            "architectures": ["InternVisionModel"], "model_type": "intern_vit_6b",
            "hidden_act": "gelu", "image_size": 56, "patch_size": 7, "qkv_bias": False,
            "qk_normalization": True,
            **{name: vision[name] for name in VISION_SIZES},
        },
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(authors))
    clip = {"feature_extractor_type": "CLIPFeatureExtractor", "crop_size": 28, "size": 28}
    (folder / "preprocessor_config.json").write_text(json.dumps(clip))
    save_file(_authors_tensors(model), folder / "model.safetensors")
    tokenizer = _tokenizer(image="<IMG_CONTEXT>")
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }} {% endfor %}"
    tokenizer.save_pretrained(folder)
    return model


VISION_SIZES = (
    "hidden_size", "intermediate_size", "layer_norm_eps", "norm_type", "num_attention_heads",
    "num_hidden_layers",
)  # fmt: skip


def _authors_tensors(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    made: dict[str, torch.Tensor] = {}
    for path, tensor in model.state_dict().items():
        name = path.removeprefix("model.")
        if name.startswith(("vision_tower.", "multi_modal_projector.")):
            for ours, theirs in VISION_NAMES.items():
                name = name.replace(ours, theirs)
        else:
            name = name.replace("language_model.", "language_model.model.")
            name = name.replace("lm_head", "language_model.lm_head")
        if match := re.fullmatch(r"(vision_model\..+attn)\.[qkv]_proj\.weight", name):
            packed = f"{match[1]}.qkv.weight"
            made[packed] = torch.cat([*([made[packed]] if packed in made else []), tensor])
        else:
            made[name] = tensor.clone()
    return made


def _tokenizer(image: str = "<image>") -> PreTrainedTokenizerFast:
    """A word "w7" for each id 7, the roles of a chat, and the tokens of images."""
    words = {f"w{id_}": id_ for id_ in range(5, VIDEO)}
    special = {"<s>": 0, "</s>": 1, "<pad>": 2, "user": 3, "assistant": 4}
    images = {image: IMAGE, "<img>": BEGIN, "</img>": END, "<video>": VIDEO}
    tokens = Tokenizer(models.WordLevel({**special, **words, **images}, "<pad>"))
    tokens.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokens, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        additional_special_tokens=list(images), chat_template=TEMPLATE,
    )  # fmt: skip


def picture(seed: int, width: int = 40, height: int = 24) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def data_uri(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
