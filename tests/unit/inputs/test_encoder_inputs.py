"""What counts as one source of an encoder."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from paths import EXAMPLES

from antiphon.config.errors import PromptError
from antiphon.config.options import ModelOptions
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.encoder_inputs import EncoderInputs
from antiphon.inputs.processor import InputProcessor
from antiphon.inputs.unread import Unread

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


def test_what_a_library_raises_for_an_image_is_an_error_of_that_input(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = ModelConfig.load(ModelOptions(str(EXAMPLES / "trocr_digits" / "model")))
    inputs = EncoderInputs(InputProcessor(model))
    begun = inputs.begin(np.zeros((4, 4, 3), np.uint8))
    assert isinstance(begun, Unread)

    def fail(source: Any) -> None:
        raise OverflowError("too wide")

    monkeypatch.setattr(inputs.images, "encoder_input", fail)
    with pytest.raises(PromptError, match="an input of type ndarray: OverflowError: too wide"):
        begun.read()
