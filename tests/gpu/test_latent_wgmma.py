"""Attention to hidden states by products of warpgroups: Hopper's kernel."""

import pytest
import torch
from attention_cases import check_paged, paged_spec

from antiphon.kernels import latent_wgmma

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("page_size", [16, 64])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("sizes", [(20, 1280), (12, 768), (16, 1024), (3, 128)])
def test_attention_to_hidden_states(
    sizes: tuple[int, int], dtype: torch.dtype, page_size: int
) -> None:
    from antiphon.attention.backends.triton import TritonLatent

    spec = paged_spec("latent", *sizes, dtype, False, page_size, "cuda", kv_heads=1)
    if not latent_wgmma.takes(sizes[1], dtype, None, page_size, spec.device):
        pytest.skip("for Hopper GPUs")
    backend = TritonLatent(spec)
    check_paged(backend, [1] * 6, [1, 16, 17, 700, 1500, 31], seed=4)
    check_paged(backend, [1] * 140, [200] * 140, seed=5)  # no splits
    check_paged(backend, [1, 8, 3, 4], [900, 3, 8, 130], seed=6)  # drafts
