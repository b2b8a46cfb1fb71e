"""Products with weights in groups, in Triton's interpreter: bfloat16 is left to the GPU."""

import pytest
import torch
from blocked_checks import WEIGHTS, check_few_rows, check_float8_product, check_product

pytest.importorskip("triton")

from antiphon.kernels.formats import FLOAT8
from antiphon.kernels.group_rows import quantize_groups
from antiphon.kernels.grouped_linear import Tile, grouped_linear
from antiphon.kernels.small_batch_linear import linear
from antiphon.layers.quantization.rows import QuantizedRows

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="compiled there: see tests/gpu")


@pytest.fixture(autouse=True)
def as_on_hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_product_is_that_of_the_numbers(name: str) -> None:
    check_product(name, 3, 80, "cpu", torch.float16, 1e-3)


@pytest.mark.parametrize("rows", [1, 17, 64, 130])
def test_any_number_of_rows(rows: int) -> None:
    check_product("int4 with zero points", rows, 144, "cpu", torch.float16, 1e-3)


def test_both_sides_in_float8() -> None:
    """The interpreter rounds to float8 otherwise than hardware and torch."""
    check_float8_product(5, 80, "cpu", torch.float16, 0.06)


@pytest.mark.parametrize("rows", [1, 3, 17])
def test_few_rows_of_a_decoders_eight_bit_weights(rows: int) -> None:
    check_few_rows("int8", rows, 80, "cpu", torch.float16, 1e-3)


def test_rows_that_a_float8_weight_reads_become_float8() -> None:
    """In both kernels for few of them. See above for how the interpreter rounds."""
    torch.manual_seed(1)
    x, bias = torch.randn(3, 256).half(), torch.randn(80).half()
    weight, scales = torch.randn(80, 256).to(FLOAT8), torch.rand(1, 80) + 0.5
    rows = QuantizedRows.float8(x)
    numbers = rows.values.float() * rows.scales
    wanted = numbers @ (weight.float() * scales.t()).t() + bias.float()
    tile, counters = Tile(16, 64, 2, 4, 3), torch.zeros(4, dtype=torch.int32)
    grouped = grouped_linear(
        rows.values, weight, scales, None, bias, tile, block=128, dtype=torch.float16,
        x_scales=rows.scales, counters=counters,
    )  # fmt: skip
    assert (grouped.float() - wanted).norm() <= 1e-3 * wanted.norm()
    fused = linear(x, weight, bias, scales=scales)
    assert (fused.float() - wanted).norm() <= 0.06 * wanted.norm()


def test_each_group_of_features_has_its_own_scale() -> None:
    """The interpreter loses the carry where a number is rounded up to a power of two, which halves
    it: about one in 50."""
    torch.manual_seed(0)
    x = torch.randn(3, 384) * torch.tensor([1e-3, 1.0, 50.0]).repeat_interleave(128)
    x[1, :128] = 0
    values, scales = quantize_groups(x, 128)
    largest = x.unflatten(1, (-1, 128)).abs().amax(-1)
    torch.testing.assert_close(scales, largest.clamp(min=1e-12) / 448)
    numbers = (values.float().unflatten(1, (-1, 128)) * scales[..., None]).flatten(1)
    steps = scales.repeat_interleave(128, 1) * 2**-9  # of the smallest numbers
    is_near = (numbers - x).abs() <= x.abs() / 16 + steps
    assert is_near.float().mean() > 0.96
    halved = torch.where(is_near, x, x / 2)
    torch.testing.assert_close(numbers, halved, rtol=0.1, atol=1e-3)
