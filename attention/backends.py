"""The table of attention backends: what each can do, and where its class is. Reading it imports none of them."""

import importlib
from dataclasses import dataclass

import torch

from antiphon.attention.interface import AttentionBackend


@dataclass(frozen=True)
class Support:
    """What a backend can do; the selection reads nothing else. None: no restriction."""

    kinds: frozenset[str]
    dtypes: frozenset[torch.dtype]
    devices: frozenset[str] = frozenset({"cuda"})
    bias: bool = False
    head_dim_multiple: int = 1
    max_head_dim: int | None = None
    page_size_multiple: int = 1
    min_capability: tuple[int, int] | None = None  # of a CUDA device
    package: str | None = None  # what must be importable, and is named in the refusal
    extra: str | None = None  # the extra of ours that installs it


@dataclass(frozen=True)
class Row:
    path: str  # module:class
    support: Support

    def load(self) -> type[AttentionBackend]:
        """Imports the backend, and with it whatever it is built on."""
        module, _, attribute = self.path.partition(":")
        found: type[AttentionBackend] = getattr(importlib.import_module(module), attribute)
        return found


BACKENDS = {
    "torch_sdpa": Row(
        "antiphon.attention.torch_sdpa:TorchSdpa",
        Support(
            kinds=frozenset({"full", "causal", "cross"}),
            dtypes=frozenset({torch.float32, torch.bfloat16, torch.float16}),
            devices=frozenset({"cpu", "cuda"}),
            bias=True,
        ),
    ),
    "cpu_paged": Row(
        "antiphon.attention.cpu_paged:CpuPaged",
        Support(
            kinds=frozenset({"causal", "cross"}),
            dtypes=frozenset({torch.float32}),
            devices=frozenset({"cpu"}),
            bias=True,
            package="numba",
        ),
    ),
}
