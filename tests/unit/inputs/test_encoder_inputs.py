"""What counts as one source of an encoder."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from antiphon.inputs.encoder_inputs import EncoderInputs

IMAGES: Any = SimpleNamespace(images=object())


@pytest.mark.parametrize(
    "source", ["a.png", np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4)), torch.zeros(3, 4, 4), None]
)
def test_one_image(source: Any) -> None:
    assert EncoderInputs.is_one(IMAGES, source)


@pytest.mark.parametrize(
    "sources", [["a.png"], np.array(["a.png", "b.png"]), np.zeros((2, 4, 4, 3)), iter(["a.png"])]
)
def test_several_images(sources: Any) -> None:
    assert not EncoderInputs.is_one(IMAGES, sources)
