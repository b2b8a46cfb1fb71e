"""The vision encoder of Qwen2.5-VL, saved alone."""

from antiphon.families.vit_like import encoder_alone

FAMILY = encoder_alone("qwen2_5_vl_vision", "Qwen2_5_VisionTransformerPretrainedModel")
