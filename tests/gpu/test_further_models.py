"""On a CUDA device: BEiT, Florence-2, Moonshine and T5Gemma give what they give on a CPU.

python -m pytest -m gpu tests/gpu/test_further_models.py
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_once import made_once
from oracle import mixed_inputs
from plain_engine import PlainEngine
from tiny_florence import make_florence
from tiny_models import VOCAB
from tiny_moonshine import make_moonshine, waves
from tiny_readers import make_reader
from tiny_t5gemma import make_t5gemma
from tiny_vision import pixels

from antiphon.inputs.images.pixels import Pixels
from antiphon.scheduler.request import Media

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
MODELS: dict[str, Callable[[Path], object]] = {
    "beit": lambda folder: make_reader("beit_trocr", folder),
    "florence": make_florence,
    "moonshine": make_moonshine,
    "t5gemma": make_t5gemma,
}
START, LENGTH = 2, 10
TOLERANCES = {"float32": 1e-3, "float16": 0.02, "bfloat16": 0.12}  # of the largest value
CASES = [
    (name, dtype)
    for name in MODELS
    for dtype in TOLERANCES
    if (name, dtype) != ("t5gemma", "float16")  # it leaves the format, and is refused
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    def make(name: str, folder: Path) -> Path:
        MODELS[name](folder)
        return folder

    get = made_once(make, tmp_path_factory)
    return lambda name: get(name)[0]


def inputs(name: str) -> Sequence[np.ndarray]:
    """Of mixed sizes, where the model takes such."""
    if name == "moonshine":
        return waves(20_000, 895, 48_000, 9_001)
    if name == "t5gemma":
        return [ids for ids, _ in mixed_inputs(6, VOCAB, seed=3)]
    if name == "beit":
        return [pixels(seed, 1, 3, 24, 24) for seed in range(3)]
    images = []
    for seed, (size, words) in enumerate([((44, 60), 5), ((44, 60), 0), ((33, 21), 9)]):
        image = Pixels.unpacked(pixels(seed, 1, 3, *size))
        text = np.random.default_rng(seed).integers(3, 60, words)
        images.append(Pixels(image.shape, image.values, text).packed())
    return images


def run(engine: PlainEngine, name: str) -> tuple[torch.Tensor, list[list[int]]]:
    """Hidden states of all inputs, and the tokens behind them."""
    given = inputs(name)
    assert engine.encoder is not None
    encoded = engine.encoder.encode(given)
    kinds: dict[str, Any] = {"moonshine": "audio", "t5gemma": "text"}
    for number, (payload, length) in enumerate(zip(given, encoded.lengths, strict=True)):
        request = engine.request(None, [START], LENGTH)
        request.inputs = (Media(str(number), kinds.get(name, "image"), length, payload),)
        engine.submit(request)
    finished = engine.run()
    return encoded.hidden.float().cpu(), [finished[number].token_ids for number in finished]


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_what_a_cpu_gives(name: str, dtype: str, made: Callable[[str], Path]) -> None:
    """In float32 the same tokens too: half precision parts those of random models soon."""
    options = {"max_num_seqs": 4}
    wanted, tokens = run(PlainEngine(made(name), **options), name)
    hidden, got = run(PlainEngine(made(name), device="cuda", dtype=dtype, **options), name)
    assert (hidden - wanted).abs().max() <= TOLERANCES[dtype] * wanted.abs().max()
    assert [len(ids) for ids in got] == [len(ids) for ids in tokens]
    if dtype == "float32":
        assert got == tokens
