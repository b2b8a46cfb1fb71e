"""Weights as GPTQ, AWQ, bitsandbytes and torchao store them, read whole and in shares of ranks."""

from collections.abc import Iterator

import pytest
import torch
from packed_writers import METHODS, four_bits, gptq

from antiphon.config.errors import CheckpointError, UnsupportedModelError
from antiphon.families.quantization.reading import stored_quantization
from antiphon.layers.quantization.formats import format_of
from antiphon.layers.quantization.quantized_weight import QuantizedWeight
from antiphon.layers.shard import Span, Spans

OUTPUTS, INPUTS = 48, 128
SHARES = {
    "whole": (Span.whole(OUTPUTS), Span.whole(INPUTS)),
    "outputs": (Span(20, 12, OUTPUTS), Span.whole(INPUTS)),
    "inputs": (Span.whole(OUTPUTS), Span(64, 64, INPUTS)),
    "inside groups": (Span(3, 5, OUTPUTS), Span(12, 42, INPUTS)),
}


class Stored(dict[str, torch.Tensor]):
    """As a `Checkpoint` gives them."""

    def tensor(self, name: str) -> torch.Tensor:
        return self[name]

    def block(self, name: str, spans: Spans) -> torch.Tensor:
        if list(self[name].shape) != [span.total for span in spans]:
            raise CheckpointError(f"{name} has shape {list(self[name].shape)}")
        return self[name][tuple(span.slice for span in spans)]


def written(method: str, inputs: int = INPUTS) -> tuple[Stored, torch.Tensor]:
    torch.manual_seed(1)
    result = METHODS[method][1](torch.randn(OUTPUTS, inputs))
    return Stored({f"a.{name}": value for name, value in result.tensors.items()}), result.weight


def read(method: str, stored: Stored, spans: Spans) -> QuantizedWeight:
    quantization = stored_quantization({"quantization_config": METHODS[method][0]}, "it")
    assert quantization is not None
    return format_of(quantization).read("a", stored, spans)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("method", METHODS)
def test_a_share_stands_for_the_numbers_that_were_stored(method: str, share: str) -> None:
    stored, weight = written(method)
    spans = SHARES[share]
    own = read(method, stored, spans)
    expected = weight[spans[0].slice, spans[1].slice]
    torch.testing.assert_close(own.dequantized(torch.float32), expected, rtol=1e-5, atol=1e-6)
    assert own.has_four_bits == (method not in ("gptq_8_bits", "llm_int8", *EIGHT_BITS))


EIGHT_BITS = ("torchao_int8", "torchao_float8")


@pytest.mark.parametrize("method", METHODS)
def test_all_tensors_of_a_layer_are_accounted_for(method: str) -> None:
    stored, _ = written(method)
    quantization = stored_quantization({"quantization_config": METHODS[method][0]}, "it")
    assert quantization is not None
    form = format_of(quantization)
    assert set(form.names("a", stored)) == set(stored)
    assert form.names("b", stored) == ()
    assert form.names("a", Stored({"a.weight": torch.zeros(2, 2)})) == (), "it is stored in full"


@pytest.mark.parametrize("method", ["nf4", "nf4_twice", "fp4"])
def test_blocks_that_begin_inside_rows(method: str) -> None:
    """48 inputs in blocks of 64."""
    stored, weight = written(method, inputs=48)
    spans = (Span(7, 30, OUTPUTS), Span(16, 20, 48))
    own = read(method, stored, spans).dequantized(torch.float32)
    torch.testing.assert_close(own, weight[7:37, 16:36], rtol=1e-5, atol=1e-6)


def test_a_zero_that_was_stored_as_all_bits() -> None:
    """Weights of one sign have zero points of 0, of which the first version subtracts 1."""
    for first_version in (True, False):
        result = gptq(first_version=first_version)(torch.rand(8, 16) + 0.1)
        stored = Stored({f"a.{name}": value for name, value in result.tensors.items()})
        assert int(result.tensors["qzeros"][0, 0]) == (-1 if first_version else 0)
        spans = (Span.whole(8), Span.whole(16))
        own = read("gptq" if first_version else "gptq_v2", stored, spans)
        torch.testing.assert_close(own.dequantized(torch.float32), result.weight)


def spoiled() -> Iterator[tuple[str, dict[str, torch.Tensor], type[Exception], str]]:
    whole, outputs = torch.zeros(INPUTS, dtype=torch.int32), torch.ones(OUTPUTS)
    yield "gptq", {"qweight": torch.zeros(3, 3).int()}, CheckpointError, "qweight .*shape"
    yield "gptq", {"g_idx": whole + 16}, CheckpointError, "names groups 16 to 16"
    yield "awq", {"scales": torch.ones(4, 4)}, CheckpointError, "scales .*shape"
    yield (
        "nf4",
        {"weight.quant_state.bitsandbytes__nf4": torch.zeros(3).byte()},
        *((CheckpointError, "cannot read a.weight.quant_state")),
    )
    yield "llm_int8", {"weight_format": torch.tensor(1).byte()}, UnsupportedModelError, "is 1: only"
    yield "torchao_int8", {"_weight_act_pre_scale": outputs}, UnsupportedModelError, "is not read"
    yield (
        "torchao_int8",
        {"_weight_qdata": torch.zeros(OUTPUTS, INPUTS)},
        *((CheckpointError, "stored as torch.float32")),
    )


@pytest.mark.parametrize(("method", "others", "error", "message"), list(spoiled()))
def test_what_contradicts_itself_is_refused(
    method: str, others: dict[str, torch.Tensor], error: type[Exception], message: str
) -> None:
    stored, _ = written(method)
    stored.update({f"a.{name}": tensor for name, tensor in others.items()})
    with pytest.raises(error, match=message):
        read(method, stored, SHARES["whole"])


def test_another_shape_than_the_state_says() -> None:
    stored, _ = written("nf4", inputs=64)
    with pytest.raises(CheckpointError, match=r"is of \[48, 64\].*\[48, 128\]"):
        read("nf4", stored, SHARES["whole"])


def test_blocks_of_another_size() -> None:
    """The tensor's own state counts."""
    torch.manual_seed(2)
    result = four_bits("nf4", twice=True, block=32)(torch.randn(OUTPUTS, INPUTS))
    stored = Stored({f"a.{name}": value for name, value in result.tensors.items()})
    own = read("nf4", stored, SHARES["inside groups"]).dequantized(torch.float32)
    torch.testing.assert_close(own, result.weight[3:8, 12:54], rtol=1e-5, atol=1e-6)
