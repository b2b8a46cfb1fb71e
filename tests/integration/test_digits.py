"""The shipped TrOCR reads numbers in pictures that training never saw."""

import pytest
from paths import EXAMPLES

from antiphon import Engine
from antiphon.examples.trocr_digits.evaluate import accuracy

MODEL = EXAMPLES / "trocr_digits" / "model"


@pytest.mark.parametrize("count", [60, pytest.param(500, marks=pytest.mark.slow)])
def test_numbers_are_read(count: int) -> None:
    with Engine(str(MODEL), ray=False, device="cpu") as engine:
        assert accuracy(engine, count) >= 0.95


def test_the_checkpoint_is_small() -> None:
    assert sum(path.stat().st_size for path in MODEL.iterdir()) < 5 * 2**20  # bytes
