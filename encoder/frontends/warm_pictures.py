"""Pictures that an encoder's device resizes, cuts and norms before the first request has one."""

from dataclasses import replace

import numpy as np
import torch

from antiphon.config.options import Resizing
from antiphon.families.image_halves import ImageHalf
from antiphon.families.mllama_half import MllamaVisionHalf
from antiphon.families.qwen_vision_half import QwenVisionHalf
from antiphon.inputs.images.limits import may_be_on_device
from antiphon.inputs.images.pixels import Pixels
from antiphon.inputs.images.rendering import CHANNELS, Patches, Rendering, View

GROUPS = 8  # of patches that become one row, along each side of a picture
FACTOR, MIDDLE = 1 / 255, (0.5,) * CHANNELS


def takes_pictures(resizing: Resizing, device: torch.device) -> bool:
    """Whether an encoder on `device` may be given pictures, and not their pixels alone."""
    return may_be_on_device(resizing, device.type == "cuda")


def pictures(half: ImageHalf) -> list[Pixels]:
    """A black one that is reduced and a small one that is enlarged; both lie on a larger canvas.
    None for an encoder whose images are always processed on the host."""
    if isinstance(half, MllamaVisionHalf) or half.channels != CHANNELS:
        return []
    shape, patches = half.smallest, None
    _, _, height, width = shape.pixels
    if isinstance(half, QwenVisionHalf):
        patches = Patches(half.patch_size, half.frames, half.projector.merge)
        rows = GROUPS * half.projector.merge
        shape = replace(shape, pixels=(1, rows, rows, half.patch_features))
        height = width = rows * half.patch_size
    size, corner = (height - height // 4, width), (height // 8, 0)
    view = View(size, (height, width), corner, (height, width))
    rendering = Rendering((view,), "bicubic", FACTOR, MIDDLE, MIDDLE, patches)
    return [
        Pixels(shape, np.zeros((rows, columns, CHANNELS), np.uint8), rendering=rendering)
        for rows, columns in ((2 * height, 2 * width), (height // 2, width // 2))
    ]
