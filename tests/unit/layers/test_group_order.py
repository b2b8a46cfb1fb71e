"""Groups with inputs in any order, and the layouts that have them one behind the other."""

from dataclasses import replace

import torch
from blocked_checks import INPUTS, WEIGHTS, weight_of
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from antiphon.layers.linear import Linear
from antiphon.layers.quantization.int4 import Int4ProductOnCPU
from antiphon.layers.quantization.ordering import in_order


@given(name=st.sampled_from(WEIGHTS), block=st.sampled_from([32, 64]), seed=st.integers(0, 99))
def test_products_stay_the_same(name: str, block: int, seed: int) -> None:
    torch.manual_seed(seed)
    weight, x = weight_of(name, 16), torch.randn(3, INPUTS)
    ordered, order = in_order(weight, block)
    assert ordered.group_of is None
    assert ordered.shape[1] == ordered.scales.shape[1] * block
    rows = x if order is None else x[:, order]
    found = F.linear(rows, ordered.dequantized(torch.float32))
    wanted = F.linear(x, weight.dequantized(torch.float32))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-2)


def test_four_bits_in_any_order_are_computed_by_the_operator_of_cpus() -> None:
    """Also where a rank has a share of each group."""
    torch.manual_seed(1)
    weight = weight_of("int4 in any order", 32)
    assert weight.group_of is not None
    share = replace(
        weight, values=weight.values[:, : INPUTS // 4], group_of=weight.group_of[: INPUTS // 2]
    )
    for own in (weight, share):
        assert Int4ProductOnCPU.suits(own)
        layer = Linear(own.shape[1], 32, bias=False)
        layer.fill(own)
        x = torch.randn(5, own.shape[1])
        wanted = F.linear(x, own.dequantized(torch.float32))
        Int4ProductOnCPU.take(layer, own)
        assert (layer(x) - wanted).norm() < 0.01 * wanted.norm()
