"""float8 linear layers: against full precision, and what is refused."""

import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracle import mixed_inputs
from plain_engine import PlainEngine

from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.errors import ConfigurationError
from antiphon.layers.linear import StackedLinear
from antiphon.layers.quantization import int8
from antiphon.layers.quantization.float8 import to_float8
from antiphon.layers.quantization.int8 import to_int8
from antiphon.layers.quantization.quantize import check_quantization, quantize_to_float8
from antiphon.layers.quantization.rows import QuantizedRows
from antiphon.runtime.device import Target


def test_rows_are_scaled_by_their_own_largest_element() -> None:
    x = torch.randn(6, 32) * torch.tensor([1e-3, 1.0, 50.0, 1e4, 0.0, 1.0])[:, None]
    quantized = QuantizedRows.float8(x)
    assert quantized.values.float().abs().amax(1)[:4].tolist() == [448.0] * 4
    torch.testing.assert_close(quantized.values.float() * quantized.scales, x, rtol=0.07, atol=1e-6)


def test_int8_rounds_to_the_nearest() -> None:
    x = torch.randn(6, 32)
    quantized = QuantizedRows.int8(x)
    assert quantized.values.abs().amax(1).tolist() == [127] * 6
    assert ((quantized.values * quantized.scales - x).abs() <= quantized.scales / 2 * 1.0001).all()


@pytest.mark.parametrize("quantize", [to_float8, to_int8])
@pytest.mark.parametrize("bias", [False, True])
def test_a_quantized_layer_is_close_to_the_layer(quantize: Any, bias: bool) -> None:
    torch.manual_seed(0)
    layer = StackedLinear(64, {"a": 48, "b": 16}, bias)
    torch.nn.init.normal_(layer.weight)
    x = torch.randn(20, 64)
    wanted = torch.cat(layer.split(x), 1)
    quantize(layer)
    for features in (x, layer.quantize_input(x)):
        quantized = torch.cat(layer.split(features), 1)
        assert quantized.dtype == torch.float32
        assert (
            0
            < (quantized - wanted).norm() / wanted.norm()
            < (0.05 if quantize is to_float8 else 0.015)
        )


@pytest.mark.parametrize("name", ["bart", "pegasus"])
@pytest.mark.parametrize("quantization", ["fp8", "int8"])
def test_a_quantized_encoder_gives_nearly_the_same_states(
    name: str, quantization: str, checkpoints: Any
) -> None:
    folder, model = checkpoints(name)
    inputs = [ids for ids, _ in mixed_inputs(6, model.config.vocab_size, seed=3)]
    plain, quantized = (
        PlainEngine(folder, quantization=method, max_model_len=100).encoder.encode(inputs).hidden
        for method in ("none", quantization)
    )
    error = (plain - quantized).norm() / plain.norm()
    assert 0.001 < error < 0.25  # lively random weights; a trained model's are below


@pytest.mark.parametrize(
    "options",
    [
        {"quantization": "fp8", "kv_cache_dtype": "fp8", "decoder_attention_backend": "torch_sdpa"},
        {"quantization": "int8"},
    ],
)
def test_the_shipped_t5_quantized(options: dict[str, Any], t5_folder: Path) -> None:
    """Both halves, in float8 the KV cache too: numbers are still spelt out right."""
    sys.path.insert(0, str(t5_folder.parent))
    import train
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(t5_folder)
    engine = PlainEngine(t5_folder, **options)
    numbers = [train.draw(random.Random(i)) for i in range(60)]
    for number in numbers:
        ids = np.array(tokenizer(f"in words: {number}").input_ids, np.int32)
        engine.submit(
            engine.request(ids, [0], 60, DecodingRules(stop_ids=(tokenizer.eos_token_id,)))
        )
    ends = engine.run()
    right = sum(
        tokenizer.decode(ends[i].token_ids, skip_special_tokens=True) == train.in_words(number)
        for i, number in enumerate(numbers)
    )
    assert right >= 59


def test_what_a_gpu_cannot_do_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with pytest.raises(
        ConfigurationError, match=r"needs compute capability \(8, 9\), this device has \(8, 0\)"
    ):
        check_quantization("fp8", Target(cuda, torch.bfloat16))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    with pytest.raises(ConfigurationError, match="needs dtype='bfloat16' on a GPU, not float16"):
        check_quantization("fp8", Target(cuda, torch.float16))
    check_quantization("fp8", Target(cuda, torch.bfloat16))
    for anywhere in ("none", "int8"):
        check_quantization(anywhere, Target(cuda, torch.float16))


def test_sizes_that_float8_products_cannot_have_are_refused() -> None:
    with pytest.raises(
        ConfigurationError, match=r"layer fc1 is \[24, 32\]; both must be multiples of 16"
    ):
        quantize_to_float8({"fc1": FakeLayer()})  # type: ignore[dict-item]


class FakeLayer:
    """A layer on a GPU, as far as the check looks."""

    device, shape = torch.device("cuda"), torch.Size([24, 32])


@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("in_vectors", [True, False])
def test_integer_products_are_the_same_on_every_cpu(
    rows: int, in_vectors: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "multiplies_integers", lambda: in_vectors)
    generator = torch.Generator().manual_seed(rows)
    codes, weight = (
        torch.randint(-127, 128, shape, dtype=torch.int8, generator=generator)
        for shape in ((rows, 1000), (24, 1000))
    )
    product = int8.integer_product(codes, weight)
    assert product.dtype == torch.int32
    assert torch.equal(product.long(), codes.long() @ weight.long().t())
