"""Small random checkpoints of vision encoders with decoders that attend to an image, saved with
transformers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tiny_decoders import liven, word_tokenizer
from tiny_models import BART_SHAPE, VOCAB, liven_text_model
from transformers import (
    BartConfig,
    BeitConfig,
    DeiTConfig,
    DonutSwinConfig,
    GenerationConfig,
    MBartConfig,
    PreTrainedConfig,
    PreTrainedModel,
    TrOCRConfig,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
)
from transformers.models.donut.image_processing_pil_donut import DonutImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

START, END, PAD = 0, 1, 2
HEIGHT, WIDTH = 24, 40
VIT: dict[str, Any] = {
    "hidden_size": 36, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3,
    "image_size": [HEIGHT, WIDTH], "patch_size": 8, "qkv_bias": False,
}  # fmt: skip
TROCR: dict[str, Any] = {
    "vocab_size": VOCAB, "d_model": 48, "decoder_layers": 3, "decoder_attention_heads": 3,
    "decoder_ffn_dim": 72, "max_position_embeddings": 60, "dropout": 0.0,
}  # fmt: skip
IDS = {"bos_token_id": START, "eos_token_id": END, "pad_token_id": PAD}


# transformers makes a decoder's cache for as many layers as its config gives the encoder.
BART = {**BART_SHAPE, **IDS, "encoder_layers": 3}


def pair(encoder: PreTrainedConfig, decoder: PreTrainedConfig) -> PreTrainedModel:
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    model = VisionEncoderDecoderModel(config)
    model.generation_config = GenerationConfig(**IDS, decoder_start_token_id=START, max_length=20)
    return model


def trocr() -> PreTrainedModel:
    """Its cross-attention reads the encoder's own width."""
    return pair(ViTConfig(**VIT), TrOCRConfig(**TROCR, **IDS, cross_attention_hidden_size=36))


def trocr_sinusoidal() -> PreTrainedModel:
    """As published large ones: computed positions, and no norm behind them; DeiT; a layer between
    both halves."""
    decoder = TrOCRConfig(
        **TROCR,
        **IDS,
        use_learned_position_embeddings=False,
        layernorm_embedding=False,
        scale_embedding=True,
        activation_function="relu",
    )
    return pair(DeiTConfig(**{**VIT, "qkv_bias": True}), decoder)


def vit_mbart() -> PreTrainedModel:
    """Of one width."""
    vit = {**VIT, "hidden_size": 48}
    return pair(ViTConfig(**vit), MBartConfig(**BART, scale_embedding=True))


def vit_bart() -> PreTrainedModel:
    return pair(ViTConfig(**VIT), BartConfig(**BART, tie_word_embeddings=False))


def beit_trocr() -> PreTrainedModel:
    """Positions are in the encoder's attention alone; cross-attention reads its own width."""
    sizes = {**VIT, "image_size": 24, "layer_scale_init_value": 0.5}
    del sizes["qkv_bias"]
    encoder = BeitConfig(
        **sizes, use_mean_pooling=False, use_relative_position_bias=True,
        use_shared_relative_position_bias=True,
    )  # fmt: skip
    return pair(encoder, TrOCRConfig(**TROCR, **IDS, cross_attention_hidden_size=36))


def donut() -> PreTrainedModel:
    """Swin: two stages, windows that reach over the edge."""
    encoder = DonutSwinConfig(
        image_size=[36, 52], patch_size=4, embed_dim=24, depths=[2, 2], num_heads=[3, 6],
        window_size=3, mlp_ratio=2.0,
    )  # fmt: skip
    return pair(encoder, MBartConfig(**BART, scale_embedding=True))


READERS: dict[str, Callable[[], PreTrainedModel]] = {
    "trocr": trocr,
    "trocr_sinusoidal": trocr_sinusoidal,
    "vit_mbart": vit_mbart,
    "vit_bart": vit_bart,
    "beit_trocr": beit_trocr,
    "donut": donut,
}


def make_reader(name: str, folder: Path) -> PreTrainedModel:
    """Saves a checkpoint with tokenizer and image processor in `folder`. Returns transformers'
    model."""
    torch.manual_seed(sum(map(ord, name)))
    model = READERS[name]().eval()
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            liven(path, parameter)
            if name == "donut" and "output.dense" in path:
                parameter.mul_(0.2)  # no norm bounds its states: attention would be all or none
    liven_text_model(model.decoder)
    model.save_pretrained(folder)
    if name == "donut":
        size = {"height": 36, "width": 52}
        DonutImageProcessorPil(size=size, do_align_long_axis=False).save_pretrained(folder)
    else:
        height, width = HEIGHT, 24 if name == "beit_trocr" else WIDTH
        size = {"height": height, "width": width}
        ViTImageProcessorPil(size=size).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return model
