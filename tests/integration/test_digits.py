"""The shipped TrOCR reads numbers in pictures that training never saw."""

import pytest
from paths import EXAMPLES

from antiphon import Engine
from antiphon.config.errors import UnsupportedModelError
from antiphon.config.options import resolve
from antiphon.examples.trocr_digits.evaluate import accuracy
from antiphon.families.checkpoint import ModelConfig
from antiphon.serve.service import check_served

MODEL = EXAMPLES / "trocr_digits" / "model"


@pytest.mark.parametrize("count", [60, pytest.param(500, marks=pytest.mark.slow)])
def test_numbers_are_read(count: int) -> None:
    with Engine(str(MODEL), ray=False, device="cpu") as engine:
        assert accuracy(engine, count) >= 0.95


def test_no_server_takes_it() -> None:
    """No endpoint has a prompt with one image that the decoder attends to."""
    with pytest.raises(UnsupportedModelError, match="one image in each prompt"):
        check_served(ModelConfig.load(resolve(str(MODEL), {}).model))


def test_the_checkpoint_is_small() -> None:
    assert sum(path.stat().st_size for path in MODEL.iterdir()) < 5 * 2**20  # bytes
