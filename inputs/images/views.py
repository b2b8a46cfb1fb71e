"""Which tiles a checkpoint's image processor makes of a picture, by the rules of its class: what an
encoder's device needs to know to make them itself."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Self

import numpy as np
import torch

from antiphon.inputs.images.rendering import CHANNELS, Patches, Rendering, View
from antiphon.inputs.images.resizing import WHITE, Filter, Size, resize

# Pictures that an encoder's device takes as they are; others are resized on the host. A picture of
# this size needs about 300 MB there for a moment, with tiles of 2304 x 2304 pixels made of it.
MOST_PIXELS = 4 << 20
FILTER_NUMBERS: dict[int, Filter] = {2: "bilinear", 3: "bicubic"}  # Pillow's

# Height and width of a picture, whether it is alone in its prompt -> views; None: not known.
Rule = Callable[[Size, bool], tuple[View, ...] | None]


@dataclass(frozen=True)
class Views:
    """Of one image processor. `rule`: of its class."""

    rule: Rule
    filter: Filter
    factor: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    patches: Patches | None

    @classmethod
    def of(cls, processor: Any, settings: Mapping[str, Any]) -> Self | None:
        """`settings`: beside the processor's own. None for one whose rules are not known."""
        kind = FILTER_NUMBERS.get(int(getattr(processor, "resample", None) or 0))
        is_usual = all(getattr(processor, f"do_{step}", False) for step in STEPS)
        if kind is None or not is_usual:
            return None
        name = type(processor).__name__.removesuffix("Pil").removesuffix("Fast")
        factor = float(getattr(processor, "rescale_factor", 1 / 255))
        try:
            rule = RULES.get(name, _whole)(processor, settings)
            mean, std = tuple(processor.image_mean), tuple(processor.image_std)
        except (AttributeError, KeyError, TypeError):  # sizes or means in another form
            return None
        if len(mean) != CHANNELS:
            return None
        return cls(rule, kind, factor, mean, std, _patches(processor) if name == QWEN else None)

    def of_picture(self, size: Size, alone: bool) -> Rendering | None:
        """None for a picture that is resized on the host."""
        return None if math.prod(size) > MOST_PIXELS else self.rendering(size, alone)

    def rendering(self, size: Size, alone: bool) -> Rendering | None:
        """Wherever it is done; None for a picture that the rule does not know."""
        views = self.rule(size, alone)
        if views is None:
            return None
        return Rendering(views, self.filter, self.factor, self.mean, self.std, self.patches)


STEPS = ("resize", "rescale", "normalize")


def _view(picture: Size, size: Size, canvas: Size | None = None, tile: Size | None = None) -> View:
    """In the middle of the canvas, as transformers rounds it."""
    canvas = canvas or size
    top, left = (
        (whole - part) // 2 if part <= whole else -((part - whole) // 2)
        for whole, part in zip(canvas, size, strict=True)
    )
    return View(size, canvas, (top, left), tile or canvas, by_rows(picture, size))


def by_rows(picture: Size, size: Size) -> bool:
    """Whether Pillow changes a picture's height first."""
    less_high, less_wide = picture[0] - size[0], picture[1] - size[1]
    return less_high > 0 and less_high > 2 * less_wide and _chooses_the_axis()


@cache
def _chooses_the_axis() -> bool:
    """Pillow 13 begins with the axis that makes the other one faster; before, it began with the
    width. Both give other levels where curves swing beyond black and white."""
    from PIL.Image import Resampling, fromarray

    size = (8, 20)
    levels = np.random.default_rng(0).integers(0, 2, (32, 16, CHANNELS), np.uint8) * WHITE
    made = np.asarray(fromarray(levels).resize(size[::-1], Resampling.BICUBIC))
    image = torch.from_numpy(levels).permute(2, 0, 1).float()
    by_rows = resize(image, size, "bicubic", rows_first=True).permute(1, 2, 0)
    return np.array_equal(by_rows.numpy(), made)


def _whole(processor: Any, settings: Mapping[str, Any]) -> Rule:
    """One size for all pictures, of which the middle may be cut out: SigLIP, CLIP, ViT, DeiT."""
    size, crop = dict(processor.size), dict(getattr(processor, "crop_size", None) or {})
    cuts = bool(getattr(processor, "do_center_crop", False))

    def rule(picture: Size, alone: bool) -> tuple[View, ...] | None:
        if size.get("height") and size.get("width"):
            resized = (int(size["height"]), int(size["width"]))
        elif size.get("shortest_edge") and not size.get("longest_edge"):
            edge, shorter = size["shortest_edge"], min(picture)
            height, width = (int(edge * side / shorter) for side in picture)
            resized = (height, width)
        else:
            return None
        canvas = (crop["height"], crop["width"]) if cuts else resized
        return (_view(picture, resized, canvas),)

    return rule


def _qwen(processor: Any, settings: Mapping[str, Any]) -> Rule:
    smart_resize = import_module(type(processor).__module__).smart_resize
    pixels, factor = dict(processor.size), processor.patch_size * processor.merge_size

    def rule(picture: Size, alone: bool) -> tuple[View, ...]:
        least, most = pixels["shortest_edge"], pixels["longest_edge"]
        size = smart_resize(*picture, factor=factor, min_pixels=least, max_pixels=most)
        return (_view(picture, size),)

    return rule


def _patches(processor: Any) -> Patches:
    return Patches(processor.patch_size, processor.temporal_patch_size, processor.merge_size)


def _onevision(processor: Any, settings: Mapping[str, Any]) -> Rule:
    """The whole picture, and where it is alone its tiles."""
    from transformers.image_processing_utils import select_best_resolution

    tile = _tile(processor)

    def rule(picture: Size, alone: bool) -> tuple[View, ...] | None:
        whole = _view(picture, tile)
        if not alone:  # others are padded to a square before
            return (whole,) if picture[0] == picture[1] else None
        canvas = select_best_resolution(picture, processor.image_grid_pinpoints)
        return whole, _view(picture, _within(picture, canvas), canvas, tile)

    return rule


def _tile(processor: Any) -> Size:
    size = dict(processor.size)
    return size["height"], size["width"]


def _within(picture: Size, canvas: Size) -> Size:
    """The largest size of its proportions, as transformers rounds it."""
    (height, width), (most_high, most_wide) = picture, canvas
    scale_wide, scale_high = most_wide / width, most_high / height
    if scale_wide < scale_high:
        return min(math.ceil(height * scale_wide), most_high), most_wide
    return most_high, min(math.ceil(width * scale_high), most_wide)


def _internvl(processor: Any, settings: Mapping[str, Any]) -> Rule:
    """Tiles, and behind several of them the whole picture as a small one."""
    canvas_of = import_module(type(processor).__module__).get_optimal_tiled_canvas
    tile = _tile(processor)
    crops = settings.get("crop_to_patches", processor.crop_to_patches)

    def rule(picture: Size, alone: bool) -> tuple[View, ...]:
        whole = _view(picture, tile)
        if not crops or processor.max_patches <= 1:
            return (whole,)
        columns, rows = canvas_of(picture, tile, processor.min_patches, processor.max_patches)
        size = (tile[0] * rows, tile[1] * columns)
        tiles = _view(picture, size, size, tile)
        return (tiles,) if tiles.tiles == 1 else (tiles, whole)

    return rule


QWEN = "Qwen2VLImageProcessor"
RULES: dict[str, Callable[[Any, Mapping[str, Any]], Rule]] = {
    QWEN: _qwen,
    "LlavaOnevisionImageProcessor": _onevision,
    "GotOcr2ImageProcessor": _internvl,
}
