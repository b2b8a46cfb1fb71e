"""How many rows an image in tiles becomes, against transformers' processor."""

from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
from transformers import LlavaOnevisionProcessor
from transformers.image_processing_utils import select_best_resolution

from antiphon.families.any_resolution import AnyResolution

TILE, SIDE = 384, 27  # SigLIP's, in published checkpoints
SIZES = [(TILE * down, TILE * across) for down, across in product(range(1, 7), repeat=2)]


def expected_rows(size: tuple[int, int], most_tiles: int) -> int:
    """By LlavaOnevisionProcessor, which asks these attributes of itself alone."""
    asked = SimpleNamespace(
        image_processor=SimpleNamespace(image_grid_pinpoints=[list(pair) for pair in SIZES]),
        num_image_tokens=SIDE**2,
        vision_aspect_ratio=f"anyres_max_{most_tiles}",
    )
    asked._get_unpadded_features = lambda *numbers: LlavaOnevisionProcessor._get_unpadded_features(
        asked, *numbers
    )
    return LlavaOnevisionProcessor._get_number_of_features(asked, *size, TILE, TILE)


def tiles_of(size: tuple[int, int]) -> int:
    height, width = select_best_resolution(list(size), [list(pair) for pair in SIZES])
    return height // TILE * (width // TILE) + 1


@pytest.mark.parametrize("most_tiles", [4, 9])
def test_rows_of_images_of_any_size(most_tiles: int) -> None:
    rule = AnyResolution(tuple(SIZES), TILE, SIDE, most_tiles)
    rng = np.random.default_rng(most_tiles)
    for size in np.exp(rng.uniform(0, 8.5, (300, 2))).astype(int).tolist():
        height, width = size
        rows = rule.rows(tiles_of((height, width)), (height, width))
        assert rows == expected_rows((height, width), most_tiles)
        assert rows <= rule.most_rows
    assert rule.rows(1, (height, width)) == SIDE**2 + 1


def test_wrong_numbers_of_tiles_are_refused() -> None:
    rule = AnyResolution(tuple(SIZES), TILE, SIDE, 9)
    with pytest.raises(ValueError, match=r"100 x 700 pixels has 1 x 2 tiles and one of .* not 4"):
        rule.rows(4, (100, 700))
    with pytest.raises(ValueError, match="4 tiles of 0 x 0 pixels"):
        rule.rows(4, (0, 0))
