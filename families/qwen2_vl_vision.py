"""The vision encoder of Qwen2-VL, saved alone."""

from antiphon.families.vit_like import encoder_alone

FAMILY = encoder_alone("qwen2_vl_vision", "Qwen2VisionTransformerPretrainedModel")
