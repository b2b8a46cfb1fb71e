"""Feed-forward layers that are padded for GPUs, as they would be there, give the same on a CPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_batches import image_batches, make_encoder
from ranked_encoder import ranked_encoder
from tiny_decoders import make_decoder
from tiny_mllama import make_mllama
from tiny_models import make
from tiny_moonshine import make_moonshine
from tiny_t5gemma import make_t5gemma
from torch import nn

from antiphon import Engine, SamplingParams
from antiphon.config.options import resolve
from antiphon.config.parallel import Parallel
from antiphon.decoder.runner import DecoderRunner
from antiphon.encoder.runner import EncoderRunner
from antiphon.engine import rank_shares
from antiphon.families.checkpoint import ModelConfig
from antiphon.layers import padding, prepare
from antiphon.layers.activations import Activation
from antiphon.layers.convolution import Convolution
from antiphon.layers.linear import Linear, StackedLinear
from antiphon.layers.padding import PADDED_MULTIPLE, around_activation, pad_features
from antiphon.layers.quantization.quantized_weight import QuantizedWeight
from antiphon.runtime.device import Target

GPU = Target(torch.device("cuda"), torch.float32)
CPU = Target(torch.device("cpu"), torch.float32)


@pytest.fixture
def padded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are padded wherever they are; widths of 48 too, which a GPU takes as they are."""
    monkeypatch.setattr(padding, "FEATURES_MULTIPLE", PADDED_MULTIPLE)
    for module in (prepare, rank_shares):
        monkeypatch.setattr(module, "pad_features", lambda model, target: pad_features(model, GPU))


def runner_of(folder: Path, **options: Any) -> EncoderRunner:
    config = resolve(str(folder), {"device": "cpu", **options})
    return EncoderRunner(ModelConfig.load(config.model), config)


def widths(module: nn.Module) -> set[int]:
    pairs = filter(None, map(around_activation, module.modules()))
    return {narrow.weight.shape[1] for _, narrow in pairs}


def check_all_are_seen(model: nn.Module) -> None:
    """Every activation has its layers around it, or is a convolution's."""
    for module in model.modules():
        if any(isinstance(child, Activation) for child in module.children()):
            assert around_activation(module) is not None or isinstance(module, Convolution)


@pytest.mark.parametrize(
    "name", ["qwen2_5_vl", "qwen2_vl", "siglip_vision", "internvit_6b", "beit", "llava", "swin"]
)
def test_image_encoders_give_the_same(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    make_encoder(name, tmp_path)
    batches = image_batches(tmp_path)
    as_stored = runner_of(tmp_path)
    wanted = [as_stored.encode(batch).hidden for batch in batches]
    check_all_are_seen(as_stored.model)
    request.getfixturevalue("padded")
    runner = runner_of(tmp_path)
    assert all(width % PADDED_MULTIPLE == 0 for width in widths(runner.model))
    for batch, hidden in zip(batches, wanted, strict=True):
        torch.testing.assert_close(runner.encode(batch).hidden, hidden, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"quantization": "int8"}, {"quantization": "fp8"}])
def test_ranks_pad_their_shares(options: dict[str, Any], tmp_path: Path, padded: None) -> None:
    """Three ranks have 16, 16 and 8 of 40 features: each as many as it needs."""
    make_encoder("qwen2_5_vl", tmp_path)
    alone = runner_of(tmp_path, **options)
    with ranked_encoder(tmp_path, Parallel(3), **options) as leader:
        assert widths(leader.model.layers) == {PADDED_MULTIPLE}
        for batch in image_batches(tmp_path):
            wanted, actual = alone.encode(batch).hidden, leader.encode(batch).hidden
            assert (actual - wanted).norm() <= (0.1 if options else 1e-5) * wanted.norm()


MAKERS: dict[str, Callable[[Path], Any]] = {
    "bart": lambda folder: make("bart", folder),
    "t5": lambda folder: make("t5", folder),
    "t5_gated": lambda folder: make("t5_gated_untied", folder),
    "whisper": lambda folder: make("whisper", folder),
    "llama": lambda folder: make_decoder("llama_with_biases", folder),
    "moonshine": make_moonshine,
    "t5gemma": make_t5gemma,
    "mllama": make_mllama,
}


@pytest.mark.parametrize("name", MAKERS)
def test_layers_of_every_kind_are_seen(name: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path)
    config = resolve(str(tmp_path), {"device": "cpu", "max_num_seqs": 2})
    model = ModelConfig.load(config.model)
    check_all_are_seen(DecoderRunner(model, config, None).model)
    if model.encoder is not None:
        check_all_are_seen(EncoderRunner(model, config).model)


def test_a_decoder_writes_the_same(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    make_decoder("llama_with_biases", tmp_path)

    def written() -> list[int]:
        with Engine(str(tmp_path), ray=False, device="cpu", max_num_seqs=2) as engine:
            (output,) = engine.generate(["w3 w4 w5"], SamplingParams(max_tokens=12))
            return list(output.outputs[0].token_ids)

    as_stored = written()
    request.getfixturevalue("padded")
    assert written() == as_stored


def test_what_is_held_is_what_was_reckoned(tmp_path: Path, padded: None) -> None:
    make_encoder("qwen2_5_vl", tmp_path)
    config = resolve(str(tmp_path), {"device": "cpu"})
    model, layout = ModelConfig.load(config.model), {"encoder": Parallel(2)}
    shares = list(rank_shares.rank_shares(model, config, CPU, layout))
    with ranked_encoder(tmp_path, Parallel(2)) as leader:
        held = sum(weight.nbytes for weight in leader.model.parameters())
    assert shares[0].weight_bytes == held


class FeedForward(nn.Module):
    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.activation = Activation("silu")
        names = dict.fromkeys([f"part{n}" for n in range(parts)], width)
        self.wide = StackedLinear(8, names, bias=True)
        self.narrow = Linear(width, 8)
        for parameter in self.parameters():
            nn.init.normal_(parameter)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.narrow(self.activation(*self.wide.split(x)))
        return out


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize(
    ("width", "wanted"), [(3420, 3456), (1708, 1728), (13, 64), (4304, 4304), (64, 64)]
)
def test_a_width_becomes_whole_tiles(parts: int, width: int, wanted: int) -> None:
    layer, x = FeedForward(width, parts), torch.randn(3, 8)
    before = layer(x)
    pad_features(layer, GPU)
    assert layer.wide.weight.shape == layer.wide.shape == (parts * wanted, 8)
    assert layer.narrow.weight.shape == layer.narrow.shape == (8, wanted)
    torch.testing.assert_close(layer(x), before, atol=1e-4, rtol=1e-4)


def test_some_layers_stay_as_they_are() -> None:
    """On a CPU; and where a checkpoint has one of the weights quantised."""
    layer = FeedForward(12, 2)
    pad_features(layer, CPU)
    assert widths(layer) == {12}
    codes = torch.from_numpy(np.ones((8, 12), np.int8))
    layer.narrow.fill(QuantizedWeight(codes, torch.ones(8, 1)))
    pad_features(layer, GPU)
    assert layer.wide.shape == (24, 8)
    assert layer.narrow.shape == (8, 12)
