"""Queries and keys turned by our kernel in Triton's interpreter, against torch's operations.

bfloat16 is left to the GPU: the interpreter cuts numbers off where GPUs round them.
"""

import pytest
import torch

pytest.importorskip("triton")

from antiphon.kernels.rotary import turned
from antiphon.layers.rotary import Rotation

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="compiled there: see tests/gpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim", "planes"),
    [(2, 2, 80, 40), (20, 1, 16, 8), (3, 3, 24, 8), (1, 1, 6, 2)],
)
def test_every_number_is_torchs(
    dtype: torch.dtype, heads: int, kv_heads: int, dim: int, planes: int
) -> None:
    """Also of parts of heads, which the rest of a head is copied behind, and of columns of one
    buffer."""
    buffer = torch.randn(5, (heads + 2 * kv_heads) * dim).to(dtype)
    q, k, _ = buffer.split([heads * dim, kv_heads * dim, kv_heads * dim], dim=-1)
    q, k = q.unflatten(-1, (heads, dim)), k.unflatten(-1, (kv_heads, dim))
    angles = Rotation(*torch.randn(2, 5, planes))
    for actual, x in zip(turned(q, k, angles.cos, angles.sin), (q, k), strict=True):
        assert actual.is_contiguous()
        assert torch.equal(actual, angles.apply(x))


def test_angles_may_lie_in_any_order() -> None:
    q, k = torch.randn(2, 3, 2, 8)
    cos, sin = (table.T for table in torch.randn(2, 4, 3))
    wanted = Rotation(cos.contiguous(), sin.contiguous())
    for actual, x in zip(turned(q, k, cos, sin), (q, k), strict=True):
        assert torch.equal(actual, wanted.apply(x))
