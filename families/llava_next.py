"""LLaVA-NeXT, or LLaVA 1.6 (Liu et al. 2024): each picture is cut into tiles, whose patches by CLIP
stand line by line in the prompt of Llama, Mistral or Qwen2."""

from antiphon.families.family import Config
from antiphon.families.image_halves import VitHalf
from antiphon.families.llava import in_tiles, llava_encoder
from antiphon.families.vision_language import vision_language


def _encoder(config: Config) -> VitHalf:
    return in_tiles(llava_encoder(config), config, None, alone=False)


FAMILY = vision_language("llava_next", "LlavaNextForConditionalGeneration", _encoder)
