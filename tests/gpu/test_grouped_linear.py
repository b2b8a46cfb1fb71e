"""On a CUDA device: products with weights in groups, beside those of the numbers.

python -m pytest -m gpu tests/gpu/test_grouped_linear.py
"""

import pytest
import torch
from blocked_checks import WEIGHTS, check_few_rows, check_float8_product, check_product

from antiphon.layers.quantization.dequantized import rounded
from antiphon.layers.quantization.quantized_weight import QuantizedInput

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize(("rows", "outputs"), [(1, 80), (16, 640), (50, 4608), (130, 1280)])
def test_the_product_is_that_of_the_numbers(
    name: str, rows: int, outputs: int, dtype: torch.dtype
) -> None:
    check_product(name, rows, outputs, "cuda", dtype, 4e-3 if dtype == torch.bfloat16 else 6e-4)


@pytest.mark.parametrize("rows", [1, 16, 50, 130, 2000])
def test_both_sides_in_float8(rows: int) -> None:
    check_float8_product(rows, 1280, "cuda", torch.bfloat16, 4e-3)


@pytest.mark.parametrize("name", ["int8", "float8"])
@pytest.mark.parametrize(
    ("rows", "outputs"), [(1, 640), (3, 4608), (16, 1280), (50, 4608), (65, 64)]
)
def test_few_rows_of_a_decoders_eight_bit_weights(name: str, rows: int, outputs: int) -> None:
    check_few_rows(name, rows, outputs, "cuda", torch.bfloat16, 4e-3)


def test_features_are_rounded_as_on_a_cpu() -> None:
    from antiphon.families.quantization.scheme import InputScheme
    from antiphon.kernels.group_rows import quantize_groups

    x = torch.randn(40, 3584)
    values, scales = quantize_groups(x.cuda(), 128)
    numbers = (values.float().unflatten(1, (-1, 128)) * scales[..., None]).flatten(1).cpu()
    wanted = rounded(x, QuantizedInput(InputScheme("float", group=128)))
    assert (numbers != wanted).float().mean() < 1e-3  # a division's last bit
