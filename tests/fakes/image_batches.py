"""Small image encoders of every kind that has CUDA graphs, and batches of images for them."""

from pathlib import Path

import numpy as np
from tiny_vision import QWEN, SWIN, VISION, pixels, save
from tiny_vlms import make_vlm, picture
from transformers import PreTrainedModel

from antiphon.config.options import ModelOptions
from antiphon.families.checkpoint import ModelConfig
from antiphon.families.image_halves import ImageHalf, VitHalf
from antiphon.families.qwen_vision_half import QwenVisionHalf
from antiphon.inputs.images.processor import ImageProcessor

VLMS = ("llava", "llava_of_layers", "llava_next", "llava_onevision", "internvl")
ALONE = {
    **{name: VISION[name] for name in ("siglip_vision", "clip", "vit", "deit", "beit", "dit")},
    "internvit_6b": VISION["internvit_6b"],
    "swin": SWIN["swin"],
    **QWEN,
}
ENCODERS = (*ALONE, *VLMS)
# Frames, rows and columns of patches: whole windows, cut ones, videos.
GRIDS = [
    [(1, 8, 8), (1, 2, 2), (3, 4, 10)],
    [(1, 2, 2)],
    [(1, 10, 6), (1, 8, 8), (2, 2, 4)],
    [(1, 4, 4)] * 6,
    [(1, 12, 12)],
]
COUNTS = [3, 1, 2, 4, 1]
SIZES = [(40, 24), (24, 24), (30, 66), (100, 20), (9, 9)]  # of pictures that are cut into tiles


def make_encoder(name: str, folder: Path) -> PreTrainedModel:
    """Saves one of `ENCODERS`, some with a decoder behind it, in `folder`."""
    return save(ALONE[name](), folder) if name in ALONE else make_vlm(name, folder)


def image_batches(folder: Path) -> list[list[np.ndarray]]:
    """Small ones behind large ones: what these leave in a graph's buffers must not matter."""
    half = ModelConfig.load(ModelOptions(str(folder))).encoder
    assert isinstance(half, ImageHalf)
    if isinstance(half, QwenVisionHalf):
        features = half.patch_features
        return [
            [pixels(seed, *grid, features) for seed, grid in enumerate(grids)] for grids in GRIDS
        ]
    if isinstance(half, VitHalf) and half.tiles is not None:
        processor = ImageProcessor(folder, half)
        images = [
            processor.encoder_input(picture(seed, *size), alone=True).payload
            for seed, size in enumerate(SIZES)
        ]
        return [images[:2], images[4:], images[2:3], images[1:]]
    assert half.usual_tile is not None
    _, *tile = half.usual_tile.pixels
    return [[pixels(seed, 1 + seed % 2, *tile) for seed in range(count)] for count in COUNTS]
