"""Encoders whose tiles are put together, or of which several layers are read, by several ranks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from ranked_encoder import ranked_encoder
from tiny_vlms import make_vlm, picture

from antiphon.config.errors import ConfigurationError
from antiphon.config.options import ModelOptions
from antiphon.config.parallel import Parallel
from antiphon.families.checkpoint import ModelConfig
from antiphon.families.image_halves import ImageHalf
from antiphon.inputs.images.pixels import Pixels
from antiphon.inputs.images.processor import ImageProcessor
from antiphon.layers.shard import check_parallel

SIZES = [(40, 24), (24, 24), (30, 66), (100, 20), (9, 9)]
Made = dict[str, tuple[Path, Any]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    names = ("llava_onevision", "llava_of_layers")
    folders = {name: tmp_path_factory.mktemp(name) for name in names}
    return {name: (folder, make_vlm(name, folder)) for name, folder in folders.items()}


@torch.inference_mode()
@pytest.mark.parametrize(
    ("name", "parallel"),
    [
        ("llava_onevision", Parallel(tensor=2, pipeline=2)),
        ("llava_onevision", Parallel(tensor=2, mode="data")),
        ("llava_of_layers", Parallel(tensor=3)),  # 4 heads: 2, 1 and 1
    ],
    ids=str,
)
def test_ranks_give_the_rows_of_transformers(made: Made, name: str, parallel: Parallel) -> None:
    folder, model = made[name]
    half = ModelConfig.load(ModelOptions(str(folder))).encoder
    assert isinstance(half, ImageHalf)
    processor = ImageProcessor(folder, half)
    images = [
        processor.encoder_input(picture(seed, *size), alone=seed > 0).payload
        for seed, size in enumerate(SIZES)
    ]
    with ranked_encoder(folder, parallel) as runner:
        encoded = runner.encode(images)
    for number, rows in enumerate(encoded.hidden.split(encoded.lengths)):
        image = Pixels.unpacked(images[number])
        inputs = {"pixel_values": torch.from_numpy(image.values)}
        if name == "llava_onevision":
            inputs["pixel_values"] = inputs["pixel_values"][None]
            inputs["image_sizes"] = torch.tensor([image.shape.size])
            # The first one is read as one of two images.
            inputs["batch_num_images"] = torch.tensor([1 if number else 2])
        features = model.model.get_image_features(**inputs).pooler_output
        wanted = torch.cat(list(features)).flatten(0, -2)
        assert rows.shape == wanted.shape
        assert (rows - wanted).abs().max() <= 1e-4 * wanted.abs().max()


def test_several_layers_are_read_in_one_stage(made: Made) -> None:
    half = ModelConfig.load(ModelOptions(str(made["llava_of_layers"][0]))).encoder
    assert half is not None
    message = "encoder_pipeline_parallel_size=2: the decoder reads the states of several layers"
    with pytest.raises(ConfigurationError, match=message):
        check_parallel(half, Parallel(pipeline=2))
    check_parallel(half, Parallel(tensor=2))
