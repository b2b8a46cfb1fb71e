"""Which backends compute an encoder's attention in float8, and what is said of the others."""

from dataclasses import replace

import pytest
import torch
from attention_cases import full_spec

from antiphon.attention.registry import BACKENDS
from antiphon.attention.selection import choose, refusal, select_full, unsupported
from antiphon.config.errors import AttentionBackendError

FLOAT8 = torch.float8_e4m3fn


def test_encoders_in_float8() -> None:
    plain = full_spec(2, 64, torch.float32, kv=FLOAT8)
    assert select_full("encoder", "auto", plain).name == "torch_sdpa"
    refused = "adds no bias and caps no scores in float8"
    for odd in (
        replace(plain, bias=True),
        replace(plain, window_bias=True),
        replace(plain, score_cap=50.0),
    ):
        assert refused in str(refusal("torch_sdpa", odd))
        with pytest.raises(AttentionBackendError, match=f"no attention backend.*{refused}"):
            choose("encoder", "auto", [odd])
    on_gpu = full_spec(16, 80, torch.bfloat16, device="cuda", kv=FLOAT8)
    on_hopper = {name for name in BACKENDS if unsupported(name, on_gpu, (9, 0)) is None}
    assert on_hopper == {"torch_sdpa", "triton"}
    old = unsupported("triton", on_gpu, (8, 0))
    assert old == "float8 needs compute capability (8, 9), this device has (8, 0)"
