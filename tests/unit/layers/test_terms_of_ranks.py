"""Sums over ranks that are left to the norm behind them, in Triton's interpreter: one rank whose
memory is its own, so that the sum over ranks is its term."""

import weakref

import pytest
import torch
from torch import nn

pytest.importorskip("triton")

from antiphon.kernels.shared_rows import SHARED_BYTES, SharedRows
from antiphon.layers.linear import Linear
from antiphon.layers.norms import DeferringNorm, FusedNorm, LayerNorm
from antiphon.layers.quantization.float8 import Float8Norm
from antiphon.layers.quantization.rows import QuantizedRows
from antiphon.layers.residual import RankTerm, Residual
from antiphon.runtime.groups import Alone
from antiphon.runtime.pausable import Pausable

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="compiled there: tests/multi_gpu")

WIDTH = 24


class Sharing(Alone):
    """`sums`: how many were asked of it."""

    size = 2  # so that layers take it for several

    def __init__(self) -> None:
        self.memory, self.sums = torch.zeros(SHARED_BYTES, dtype=torch.uint8), 0
        self.rows = SharedRows.of(self.memory, [self.memory.data_ptr()], 0)

    def shared_rows(self, x: torch.Tensor) -> SharedRows | None:
        return self.rows if len(x) <= 4 else None

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        self.sums += 1
        return x


@pytest.fixture
def layer() -> tuple[Linear, Sharing]:
    torch.manual_seed(0)
    group = Sharing()
    layer = Linear(16, WIDTH, summed_over=group)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    return layer, group


def inputs(rows: int) -> tuple[Residual, torch.Tensor, LayerNorm]:
    norm = LayerNorm(WIDTH)
    norm.weight.copy_(torch.randn(WIDTH))
    norm.bias.copy_(torch.randn(WIDTH))
    return Residual(torch.randn(rows, WIDTH)), torch.randn(rows, 16), norm


@pytest.mark.parametrize("method", [FusedNorm(), DeferringNorm(FusedNorm())], ids=["all", "few"])
@pytest.mark.parametrize("rows", [3, 5])
def test_the_norm_makes_small_sums(
    layer: tuple[Linear, Sharing], rows: int, method: FusedNorm
) -> None:
    linear, group = layer
    residual, x, norm = inputs(rows)
    wanted = residual.x + linear.own_method.product(linear, x)
    residual = linear.add_to(residual, x)
    assert isinstance(residual.pending, RankTerm) is (rows == 3)
    norm.method = method
    normed, after = norm(residual)
    assert group.sums == (rows == 5)
    torch.testing.assert_close(after.x, wanted)
    assert after.pending is None
    assert isinstance(normed, torch.Tensor)
    torch.testing.assert_close(normed, norm.in_torch(wanted))
    torch.testing.assert_close(norm.of_sum(residual), normed)


def test_float8_rows(layer: tuple[Linear, Sharing]) -> None:
    residual, x, norm = inputs(2)
    residual = layer[0].add_to(residual, x)
    norm.method = Float8Norm()
    normed, after = norm(residual)
    assert isinstance(normed, QuantizedRows)
    wanted = norm.in_torch(after.x)
    torch.testing.assert_close(normed.values.float() * normed.scales, wanted, atol=0.1, rtol=0.07)


def test_where_no_norm_follows_the_group_sums(layer: tuple[Linear, Sharing]) -> None:
    """At the end of a stage."""
    linear, group = layer
    residual, x, _ = inputs(3)
    total = linear.add_to(residual, x).total()
    assert group.sums == 1
    torch.testing.assert_close(total, residual.x + linear.own_method.product(linear, x))


def test_a_paused_group_waits_for_nobody() -> None:
    group = Sharing()
    pausable, x = Pausable(group), torch.zeros(2, WIDTH)
    assert pausable.shared_rows(x) is group.rows
    pausable.paused = True
    shared = pausable.shared_rows(x)
    assert shared is not None
    assert shared.memory is not group.memory
    assert pausable.shared_rows(x) is shared, "memory is taken once"
    assert pausable.shared_rows(torch.zeros(5, WIDTH)) is None
    pausable.resume()
    assert pausable.shared_rows(x) is group.rows
    freed = weakref.ref(shared.memory)
    del shared
    assert freed() is None
