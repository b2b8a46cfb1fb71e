"""Qwen2.5-VL (Bai et al. 2025): Qwen2-VL with windows, RMS norms and gated layers in its
encoder."""

from antiphon.families.family import Config
from antiphon.families.qwen_vision import qwen2_5_vl
from antiphon.families.qwen_vision_half import QwenVisionHalf
from antiphon.families.vision_language import vision_language


def _encoder(config: Config) -> QwenVisionHalf:
    return qwen2_5_vl(config["vision_config"])


FAMILY = vision_language("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration", _encoder)
