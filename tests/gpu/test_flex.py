"""On a CUDA device: how `flex` attention is compiled. What it computes: `test_attention.py`."""

import pytest
import torch
from attention_cases import check_full, full_spec

from antiphon.attention.registry import BACKENDS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_it_is_compiled_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's pool of compiling processes has been seen to give no answer."""
    from torch._inductor.async_compile import AsyncCompile

    def pool() -> None:
        raise AssertionError("torch's pool of compiling processes was asked")

    monkeypatch.setattr(AsyncCompile, "process_pool", pool)
    monkeypatch.setattr("torch._inductor.config.fx_graph_cache", False)  # compiled anew
    spec = full_spec(3, 64, torch.bfloat16, False, "cuda")
    check_full(BACKENDS["flex"].full_class()(spec), [5, 600])
