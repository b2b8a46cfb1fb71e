"""Encoders whose attention is computed in float8, through whole engines on a CPU."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from paths import EXAMPLES, T5
from tiny_mllama import make_mllama
from tiny_readers import make_reader
from tiny_vlms import make_vlm, picture
from typer.testing import CliRunner

from antiphon import Engine
from antiphon.attention.specs import encoder_spec
from antiphon.cli.app import app
from antiphon.config.errors import AttentionBackendError, ConfigurationError
from antiphon.config.options import resolve
from antiphon.encoder.runner import EncoderRunner
from antiphon.examples.qwen_shapes.evaluate import exact
from antiphon.examples.trocr_digits.evaluate import accuracy
from antiphon.families.checkpoint import ModelConfig
from antiphon.families.image_halves import ImageHalf
from antiphon.inputs.images.processor import ImageProcessor

SHAPES, DIGITS = (EXAMPLES / name / "model" for name in ("qwen_shapes", "trocr_digits"))
POINTS = 0.005  # that a score may lose or gain
FP8 = {"ray": False, "device": "cpu", "encoder_attention_dtype": "fp8"}


def test_pictures_are_read_as_well() -> None:
    with Engine(str(SHAPES), **FP8) as engine:
        assert exact(engine, 42)["all"] >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "score"),
    [(SHAPES, lambda engine: exact(engine)["all"]), (DIGITS, lambda engine: accuracy(engine, 500))],
    ids=["shapes", "digits"],
)
def test_scores_stay_within_half_a_point(model: Path, score: Callable[[Engine], float]) -> None:
    with Engine(str(model), ray=False, device="cpu") as engine:
        expected = score(engine)
    with Engine(str(model), **FP8) as engine:
        assert abs(score(engine) - expected) <= POINTS


@pytest.mark.skipif(torch.cuda.is_available(), reason="compiled there: see tests/gpu")
def test_windows_by_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder's packed images, as the torch form of float8 and, roughly, as without it."""
    pytest.importorskip("triton")
    from rounded_float8 import convert

    from antiphon.attention.backends.triton import TritonFull  # in Triton's interpreter

    monkeypatch.setattr("triton.runtime.interpreter._convert_float", convert)
    make_vlm("qwen2_5_vl", tmp_path)
    outputs = {}
    for case in ("auto", "fp8", "kernel"):
        dtype = "auto" if case == "auto" else "fp8"
        config = resolve(str(tmp_path), {"device": "cpu", "encoder_attention_dtype": dtype})
        model = ModelConfig.load(config.model)
        assert isinstance(model.encoder, ImageHalf)
        runner = EncoderRunner(model, config)
        if case == "kernel":
            spec = encoder_spec(model.encoder, runner.target, options=config.encoder)
            runner.attention = TritonFull(spec)
        processor = ImageProcessor(tmp_path, model.encoder)
        images = [picture(seed, *size) for seed, size in enumerate([(24, 16), (16, 16)])]
        outputs[case] = runner.encode([processor.encoder_input(image).payload for image in images])
    largest = outputs["auto"].hidden.abs().max()
    kernel, reference = outputs["kernel"].hidden, outputs["fp8"].hidden
    assert (kernel - reference).norm() <= 0.02 * reference.norm()
    off = (reference - outputs["auto"].hidden).abs().max() / largest
    assert 1e-4 < off < 0.2


def test_the_name_of_another_engine_and_what_info_says() -> None:
    config = resolve("m", {"mm_encoder_attn_dtype": "fp8"})
    assert config.encoder.attention_dtype == "fp8"
    told = CliRunner().invoke(app, f"info -m {SHAPES} --device cpu -o encoder_attention_dtype=fp8")
    assert told.exit_code == 0, told.output
    assert "encoder attention (full, float8): torch_sdpa" in told.output


def test_what_cannot_is_refused_before_weights_load(tmp_path: Path) -> None:
    make_reader("donut", tmp_path / "donut")
    make_mllama(tmp_path / "mllama")
    for folder in (tmp_path / "donut", T5):
        with pytest.raises(
            AttentionBackendError, match="adds no bias and caps no scores in float8"
        ):
            Engine(str(folder), **FP8)
    with pytest.raises(ConfigurationError, match=r"not possible for a mllama.* encoder"):
        Engine(str(tmp_path / "mllama"), **FP8)
    with Engine(str(DIGITS), **FP8) as engine:
        assert np.isfinite(engine.encode([picture(1)])[0]).all()
