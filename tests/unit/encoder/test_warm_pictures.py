"""What an encoder does with the first picture that it resizes itself, it has done before."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_mllama import make_mllama
from tiny_vlms import make_vlm, picture
from torch.utils._python_dispatch import TorchDispatchMode

from antiphon.config.options import Resizing, resolve
from antiphon.encoder.frontends.warm_pictures import pictures, takes_pictures
from antiphon.encoder.runner import EncoderRunner
from antiphon.families.checkpoint import ModelConfig
from antiphon.families.image_halves import ImageHalf
from antiphon.inputs.images.pixels import Pixels
from antiphon.inputs.images.processor import ImageProcessor
from antiphon.inputs.images.rendering import Rendering


class Operations(TorchDispatchMode):
    """Names of what torch runs, with the dtypes of what it reads: a kernel each, at least; views
    are none."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[str, ...]] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        read = [str(part.dtype) for part in args if isinstance(part, torch.Tensor)]
        if not func.is_view:
            self.seen.add((str(func), *read))
        return func(*args, **(kwargs or {}))


def load(folder: Path, resizing: str = "device") -> tuple[EncoderRunner, ImageHalf]:
    config = resolve(str(folder), {"device": "cpu", "image_resizing": resizing})
    model = ModelConfig.load(config.model)
    assert isinstance(model.encoder, ImageHalf)
    return EncoderRunner(model, config), model.encoder


@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava", "llava_onevision", "internvl"])
def test_a_first_picture_runs_what_ran_at_the_start(name: str, tmp_path: Path) -> None:
    make_vlm(name, tmp_path)
    runner, half = load(tmp_path)
    processor = ImageProcessor(tmp_path, half, resizing="device")
    with Operations() as warm:
        runner.warm_up()
    resized = False
    for size in ((40, 24), (24, 24), (100, 90)):
        packed = processor.encoder_input(picture(1, *size)).payload
        assert Pixels.unpacked(packed).rendering is not None
        with Operations() as first:
            runner.encode([packed])
        assert first.seen <= warm.seen
        resized |= any("__rshift__" in name for name, *_ in first.seen)
    assert resized


def test_they_are_processed_when_an_encoder_that_resizes_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[tuple[int, ...]] = []
    values = Rendering.values

    def seen(rendering: Rendering, levels: torch.Tensor) -> torch.Tensor:
        sizes.append(tuple(levels.shape))
        return values(rendering, levels)

    monkeypatch.setattr(Rendering, "values", seen)
    make_vlm("llava", tmp_path)
    for resizing in ("host", "auto"):  # on a CPU, that is the host
        load(tmp_path, resizing)
    assert sizes == []
    load(tmp_path)
    assert set(sizes) == {(56, 56, 3), (14, 14, 3)}  # of 28: one is reduced, one enlarged


@pytest.mark.parametrize(
    ("resizing", "device", "taken"),
    [
        ("host", "cuda", False),
        ("auto", "cpu", False),
        ("auto", "cuda", True),
        ("device", "cpu", True),
    ],
)
def test_who_takes_pictures(resizing: Resizing, device: str, taken: bool) -> None:
    assert takes_pictures(resizing, torch.device(device)) is taken


def test_there_are_none_where_the_host_processes_them(tmp_path: Path) -> None:
    make_mllama(tmp_path)
    half = ModelConfig.load(resolve(str(tmp_path), {}).model).encoder
    assert isinstance(half, ImageHalf)
    assert pictures(half) == []
