"""Which images each token of a prompt sees, held to the masks of transformers' processor."""

import weakref
from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.mllama.processing_mllama import (
    convert_sparse_cross_attention_mask_to_dense,
    get_cross_attention_token_mask,
)

from antiphon.scheduler.cross_views import CrossInput, RunningViews, Sees

TILES, ROWS = 4, 3  # of an image, and of a tile


@dataclass(frozen=True)
class Image:
    key: str
    token: int
    shown: int
    num_tokens: int = TILES * ROWS
    keep: bool = True


@settings(deadline=None)
@given(
    tokens=st.lists(st.booleans(), min_size=1, max_size=12).filter(any),
    tiles=st.lists(st.integers(1, TILES), min_size=12, max_size=12),
    page_size=st.integers(1, 7),
    chunk=st.integers(1, 5),
)
def test_tokens_see_what_transformers_masks_leave(
    tokens: list[bool], tiles: list[int], page_size: int, chunk: int
) -> None:
    """Chunks of a prompt never mix views, and the pages of a view hold what its tokens see."""
    places = [place for place, is_image in enumerate(tokens) if is_image]
    images = [
        Image(f"{place % 3}", place, count * ROWS)
        for place, count in zip(places, tiles, strict=False)
    ]
    cross = CrossInput.of(images)
    assert cross is not None
    spans = get_cross_attention_token_mask(list(map(int, tokens)), 1)
    masks = convert_sparse_cross_attention_mask_to_dense(
        [spans], [tiles[: len(places)]], TILES, len(tokens)
    )[0]
    # What lies in the pages: of each token there, its image and its number.
    pages = np.arange(cross.num_pages(page_size))[::-1]
    held = np.full((len(pages), page_size, 2), -1)
    for key, first, count, start in cross.sources(page_size):
        for i in range(count):
            held[pages[(start + i) // page_size], (start + i) % page_size] = int(key), first + i
    views = RunningViews(4)
    change = cross.change(2, cross.view_at(0), pages, page_size)
    views.enter(2, cross, pages, 0)
    slot, computed = np.array([2]), 0
    while computed < len(tokens):
        for change in views.advance(slot, np.array([computed]), page_size):
            assert change.slot == 2
        length = np.array([len(tokens)])
        count = min(chunk, int(views.remaining(slot, np.array([computed]), length)[0]))
        assert count > 0
        seen = held[change.pages].reshape(-1, 2)[: change.length]
        for token in range(computed, computed + count):
            mask = masks[token].repeat(ROWS, 1)
            assert (change.sees == Sees.LATEST) == mask.any()
            expected = [
                (int(image.key), row)
                for image, of_image in zip(images, mask, strict=True)
                for row in range(image.num_tokens)
                if of_image[row] or not mask.any()
            ]
            assert sorted(map(tuple, seen.tolist())) == sorted(expected)
        computed += count
    assert not views.ends.any()


def test_one_input_is_seen_by_all() -> None:
    whole = CrossInput.of([Image("a", None, 0)])  # type: ignore[arg-type]
    assert whole is not None
    assert (whole.key, whole.longest, len(whole.views)) == ("a", TILES * ROWS, 1)
    assert CrossInput.of([]) is None


def test_a_sequence_that_has_left_keeps_no_inputs() -> None:
    images = [Image("a", 0, ROWS), Image("b", 5, ROWS)]
    seen = [weakref.ref(image) for image in images]
    views = RunningViews(2)
    views.enter(1, CrossInput.of(images), np.arange(4), 0)
    views.leave(1)
    del images
    assert [image() for image in seen] == [None, None]
