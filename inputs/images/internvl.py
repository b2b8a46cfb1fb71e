"""How images stand in InternVL's prompts, and how they are cut into tiles."""

from collections.abc import Mapping
from typing import Any

FAMILIES = ("internvl", "internvl_chat")
# Of the authors' format, whose repositories leave this to their code. Published models agree.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def wraps(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Token ids before and behind an image."""
    names = (
        getattr(tokenizer, "start_image_token", "<img>"),
        getattr(tokenizer, "end_image_token", "</img>"),
    )
    first, last = (tokenizer.convert_tokens_to_ids(name) for name in names)
    return (int(first),), (int(last),)


def tiling_processor(raw: Mapping[str, Any]) -> Any:
    """transformers' image processor for a checkpoint in the authors' format; None for another.
    `raw`: config.json, translated."""
    if (tiles := raw.get("tiles")) is None:
        return None
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    return GotOcr2ImageProcessorPil(
        **tiles, image_mean=list(IMAGENET_MEAN), image_std=list(IMAGENET_STD)
    )
