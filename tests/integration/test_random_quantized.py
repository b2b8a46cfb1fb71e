"""Random weights where config.json says that they are quantised: as such a checkpoint has them."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from plain_engine import PlainEngine
from quantized_checkpoints import METHODS, publish

from antiphon.config.errors import ConfigurationError
from antiphon.layers.linear import Linear, StackedLinear
from antiphon.layers.quantization.quantized_weight import QuantizedWeight

OPTIONS: dict[str, Any] = {"max_num_seqs": 8, "max_model_len": 64, "kv_page_size": 8}
ALONE = [method for method in METHODS if method != "w4a16 in any order"]  # no config.json has it
KEPT_OUT = "self_attn.k_proj"  # so that queries, keys and values are no one product


def held(weight: QuantizedWeight | None) -> Any:
    if weight is None:
        return None
    zeros = None if weight.zeros is None else weight.zeros.shape
    inputs = None if weight.inputs is None else (weight.inputs.scheme, weight.inputs.scale is None)
    scales = weight.scales.shape
    return weight.values.dtype, weight.values.shape, scales, zeros, weight.group_size, inputs


def layers(engine: PlainEngine) -> dict[str, Any]:
    """How each linear layer of both halves is held and computed."""
    assert engine.encoder is not None
    found = {}
    for half, model in (
        ("encoder", engine.encoder.model),
        ("decoder", engine.replica.runner.model),
    ):
        for path, layer in model.named_modules():
            if isinstance(layer, Linear):
                apart = list(layer.apart) if isinstance(layer, StackedLinear) else []
                scale = None if layer.weight_scale is None else layer.weight_scale.shape
                stored = layer.weight.dtype, layer.weight.shape, scale, held(layer.quantized)
                found[f"{half}.{path}"] = type(layer.own_method), apart, stored
    return found


def config_alone(folder: Path, target: Path) -> Path:
    """The checkpoint without its weights."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.safetensors"))
    return target


@pytest.mark.parametrize(
    "name", ["whisper", pytest.param("t5_gated_untied", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("method", ALONE)
def test_layers_are_as_with_the_checkpoints_weights(name: str, method: str, tmp_path: Path) -> None:
    model = tiny_models.make(name, tmp_path / "plain")
    kept_out = (KEPT_OUT,) if method == "w8a8" else ()
    publish(model, tmp_path / "plain", tmp_path / "quantized", METHODS[method], kept_out)
    expected = layers(PlainEngine(tmp_path / "quantized", **OPTIONS))
    folder = config_alone(tmp_path / "quantized", tmp_path / "alone")
    engine = PlainEngine(folder, load_format="dummy", **OPTIONS)
    assert layers(engine) == expected
    weights = [layer.numbers() for layer in plain_or_quantized(engine)]
    deviations = torch.stack([weight.float().std() for weight in weights])
    assert ((deviations > 0.015) & (deviations < 0.025)).all()


def plain_or_quantized(engine: PlainEngine) -> list[Linear]:
    """Layers of the decoder whose numbers no method has taken over."""
    return [
        layer
        for layer in engine.replica.runner.model.modules()
        if isinstance(layer, Linear)
        and (layer.quantized is not None or (layer.weight_scale is None and layer.weight.numel()))
        and not layer.weight.is_meta  # its parts are layers of their own
    ]


def test_they_answer_and_may_be_multiplied_out(tmp_path: Path) -> None:
    model = tiny_models.make("bart", tmp_path / "plain")
    publish(model, tmp_path / "plain", tmp_path / "quantized", METHODS["w4a16"])
    folder = config_alone(tmp_path / "quantized", tmp_path / "alone")
    for quantization in ("none", "dequantize", "int8"):
        engine = PlainEngine(folder, load_format="dummy", quantization=quantization, **OPTIONS)
        start = model.generation_config.decoder_start_token_id
        engine.submit(engine.request([5, 6, 7, 2], [start], 6))
        assert len(engine.run()[0].token_ids) == 6
        kinds = {type(layer.quantized) for layer in plain_or_quantized(engine)}
        assert (QuantizedWeight in kinds) == (quantization == "none")


def test_codebooks_are_refused(tmp_path: Path) -> None:
    tiny_models.make("bart", tmp_path)
    config = tmp_path / "config.json"
    settings = '{"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true,'
    config.write_text(settings + ' "bnb_4bit_quant_type": "nf4"},' + config.read_text()[1:])
    with pytest.raises(ConfigurationError, match="random weights of nf4 are not made"):
        PlainEngine(tmp_path, load_format="dummy", **OPTIONS)
