"""The table of attention backends: what each can do, and where its class is. Reading it imports none of them."""

import importlib
from dataclasses import dataclass
from typing import Literal

import torch

from antiphon.attention.interface import AttentionBackend

HALF = frozenset({torch.float16, torch.bfloat16})
ANY_FLOAT = HALF | {torch.float32}
FULL, PAGED = frozenset({"full"}), frozenset({"causal", "cross"})
Graphs = Literal[
    "none", "same", "any"
]  # on CUDA: for which lengths a captured graph can be replayed
CUDA, CPU = frozenset({"cuda"}), frozenset({"cpu"})
HOPPER = (9, 0)


@dataclass(frozen=True)
class Support:
    """What a backend can do for some kinds of attention; the selection reads nothing else. None: no restriction."""

    kinds: frozenset[str]
    dtypes: frozenset[torch.dtype]
    devices: frozenset[str] = CUDA
    bias: bool = False
    head_dims: frozenset[int] | None = None
    head_dim_multiple: int = 1
    max_head_dim: int | None = None
    page_size_multiple: int = 1
    float8: bool = False  # keys and values in pages may be float8
    float8_head_dim_multiple: int = 1  # then
    min_capability: tuple[int, int] | None = None  # of a CUDA device
    max_capability: tuple[int, int] | None = None
    graphs: Graphs = "any"


@dataclass(frozen=True)
class Row:
    path: str  # module:class
    supports: tuple[Support, ...]  # at most one for each kind
    package: str | None = None  # what must be importable, and is named in the refusal
    extra: str | None = None  # the extra of ours that installs it
    install: str | None = None  # where it comes from, if no extra can

    def support(self, kind: str) -> Support | None:
        return next((each for each in self.supports if kind in each.kinds), None)

    def load(self) -> type[AttentionBackend]:
        """Imports the backend, and with it whatever it is built on."""
        module, _, attribute = self.path.partition(":")
        found: type[AttentionBackend] = getattr(importlib.import_module(module), attribute)
        return found


BACKENDS = {
    "torch_sdpa": Row(
        "antiphon.attention.backends.torch_sdpa:TorchSdpa",
        (
            Support(FULL, ANY_FLOAT, CPU | CUDA, bias=True, graphs="same"),
            Support(PAGED, ANY_FLOAT, CPU | CUDA, bias=True, float8=True, graphs="none"),
        ),
    ),
    "cpu_paged": Row(
        "antiphon.attention.backends.cpu_paged:CpuPaged",
        (Support(PAGED, frozenset({torch.float32}), CPU, bias=True),),
        package="numba",
    ),
    "flash_attn": Row(
        "antiphon.attention.backends.flash_attn:FlashAttention",
        (
            Support(
                FULL,
                HALF,
                head_dim_multiple=8,
                max_head_dim=256,
                min_capability=(8, 0),
                graphs="same",
            ),
            Support(
                PAGED,
                HALF,
                head_dim_multiple=8,
                max_head_dim=256,
                page_size_multiple=256,
                min_capability=(8, 0),
            ),
        ),
        package="flash_attn",
        extra="flash-attn",
    ),
    "flash_attn_3": Row(
        "antiphon.attention.backends.flash_attn_3:FlashAttention3",
        (
            Support(
                FULL,
                HALF,
                head_dim_multiple=8,
                max_head_dim=256,
                min_capability=HOPPER,
                max_capability=HOPPER,
                graphs="same",
            ),
            Support(
                PAGED,
                HALF,
                head_dim_multiple=8,
                max_head_dim=256,
                float8=True,
                float8_head_dim_multiple=16,
                min_capability=HOPPER,
                max_capability=HOPPER,
            ),
        ),
        package="flash_attn_interface",
        install="from the folder hopper of github.com/Dao-AILab/flash-attention",
    ),
    "flashinfer": Row(
        "antiphon.attention.backends.flashinfer:FlashInfer",
        (
            Support(
                FULL,
                HALF,
                head_dim_multiple=8,
                max_head_dim=128,
                min_capability=(8, 0),
                graphs="same",
            ),
            Support(
                PAGED, HALF, head_dims=frozenset({64, 128, 256}), float8=True, min_capability=(8, 0)
            ),
        ),
        package="flashinfer",
        extra="flashinfer",
    ),
    "triton": Row(
        "antiphon.attention.backends.triton:TritonAttention",
        (
            Support(FULL, ANY_FLOAT, bias=True, max_head_dim=256, min_capability=(8, 0)),
            Support(
                PAGED, ANY_FLOAT, bias=True, max_head_dim=256, float8=True, min_capability=(8, 0)
            ),
        ),
        package="triton",
    ),
    "flex": Row(
        "antiphon.attention.backends.flex:FlexAttention",
        (
            Support(
                FULL, ANY_FLOAT, bias=True, max_head_dim=256, min_capability=(8, 0), graphs="none"
            ),
        ),
        package="triton",
    ),
    "xformers": Row(
        "antiphon.attention.backends.xformers:Xformers",
        (Support(FULL, ANY_FLOAT, bias=True, head_dim_multiple=8, graphs="none"),),
        package="xformers",
        extra="xformers",
    ),
}
