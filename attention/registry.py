"""The table of attention backends: what each can do, and where its classes are.

Reading the table imports none of them, nor torch: commands check names of backends before they
import what takes seconds.
"""

import importlib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from antiphon.config.errors import AttentionBackendError, nearest

if TYPE_CHECKING:
    from antiphon.attention.interface import FullAttention, Kind, PagedAttention

HALF = frozenset({"float16", "bfloat16"})
ANY_FLOAT = HALF | {"float32"}
CUDA, CPU = frozenset({"cuda"}), frozenset({"cpu"})
HOPPER = (9, 0)
# For which lengths a CUDA graph that was captured with some can be replayed.
Graphs = Literal["none", "same", "any"]


@dataclass(frozen=True)
class Support:
    """What one class of a backend can do. The selection reads nothing else. None: unrestricted."""

    implementation: str  # name of the class
    dtypes: frozenset[str]  # names in torch
    devices: frozenset[str] = CUDA
    bias: bool = False
    window_bias: bool = False
    score_cap: bool = False
    grouped_heads: bool = False  # fewer heads of keys and values than of queries
    head_dims: frozenset[int] | None = None
    head_dim_multiple: int = 1
    max_head_dim: int | None = None
    page_size_multiple: int = 1
    float8: bool = False  # keys and values in pages may be float8
    float8_head_dim_multiple: int = 1  # with float8 pages
    min_capability: tuple[int, int] | None = None  # of a CUDA device
    max_capability: tuple[int, int] | None = None
    graphs: Graphs = "any"


@dataclass(frozen=True)
class Row:
    """One backend: its attention in encoders (`full`) and in decoders (`paged`), if it has it."""

    module: str  # in attention/backends/
    full: Support | None = None
    paged: Support | None = None
    package: str | None = None  # what must be importable, and is named in the refusal
    distribution: str | None = None  # what must be installed, where another one has its module too
    extra: str | None = None  # the extra of ours that installs it
    install: str | None = None  # where it comes from, if no extra can

    def support(self, kind: "Kind") -> Support | None:
        return self.full if kind == "full" else self.paged

    @property
    def missing(self) -> str | None:
        """What must be installed before the backend can be used, or None when it is."""
        if self.distribution is not None and not _is_installed(self.distribution):
            return f"{self.distribution} is not installed{self._remedy}"
        if self.package is None or find_spec(self.package) is not None:
            return None
        return f"{self.package} is not installed{self._remedy}"

    @property
    def _remedy(self) -> str:
        if self.extra:
            return f" (pip install 'antiphon[{self.extra}]')"
        return f" (install it {self.install})" if self.install else ""

    def full_class(self) -> "type[FullAttention[object]]":
        """Imports the backend, and with it whatever it is built on."""
        from antiphon.attention.interface import FullAttention  # not above: it imports torch

        assert self.full is not None
        implementation = self._load(self.full)
        assert issubclass(implementation, FullAttention)
        return implementation

    def paged_class(self) -> "type[PagedAttention[object]]":
        """As `full_class`."""
        from antiphon.attention.interface import PagedAttention

        assert self.paged is not None
        implementation = self._load(self.paged)
        assert issubclass(implementation, PagedAttention)
        return implementation

    def _load(self, support: Support) -> Any:
        module = importlib.import_module(f"antiphon.attention.backends.{self.module}")
        return getattr(module, support.implementation)


def _is_installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


BACKENDS = {
    "torch_sdpa": Row(
        "torch_sdpa",
        full=Support(
            "SdpaFull",
            ANY_FLOAT,
            CPU | CUDA,
            bias=True,
            window_bias=True,
            score_cap=True,
            grouped_heads=True,
            graphs="same",
        ),
        paged=Support(
            "SdpaPaged",
            ANY_FLOAT,
            CPU | CUDA,
            bias=True,
            score_cap=True,
            grouped_heads=True,
            float8=True,
            graphs="none",
        ),
    ),
    "cpu_paged": Row(
        "cpu_paged",
        paged=Support("CpuPaged", frozenset({"float32"}), CPU, bias=True, grouped_heads=True),
        package="numba",
    ),
    "flash_attn": Row(
        "flash_attn",
        full=Support(
            "FlashAttentionFull",
            HALF,
            grouped_heads=True,
            head_dim_multiple=8,
            max_head_dim=256,
            min_capability=(8, 0),
            graphs="same",
        ),
        paged=Support(
            "FlashAttentionPaged",
            HALF,
            grouped_heads=True,
            head_dim_multiple=8,
            max_head_dim=256,
            page_size_multiple=256,
            min_capability=(8, 0),
        ),
        package="flash_attn",
        extra="flash-attn",
    ),
    "flash_attn_3": Row(
        "flash_attn_3",
        full=Support(
            "FlashAttention3Full",
            HALF,
            grouped_heads=True,
            head_dim_multiple=8,
            max_head_dim=256,
            min_capability=HOPPER,
            max_capability=HOPPER,
            graphs="same",
        ),
        paged=Support(
            "FlashAttention3Paged",
            HALF,
            grouped_heads=True,
            head_dim_multiple=8,
            max_head_dim=256,
            float8=True,
            float8_head_dim_multiple=16,
            min_capability=HOPPER,
            max_capability=HOPPER,
        ),
        package="flash_attn_interface",
        install="from the folder hopper of github.com/Dao-AILab/flash-attention",
    ),
    "flash_attn_4": Row(
        "flash_attn_4",
        full=Support(
            "FlashAttention4Full",
            HALF,
            grouped_heads=True,
            head_dim_multiple=8,
            max_head_dim=128,
            min_capability=HOPPER,
            graphs="none",  # nobody has captured it yet
        ),
        distribution="flash-attn-4",
        extra="flash-attn-4",
    ),
    "flashinfer": Row(
        "flashinfer",
        full=Support(
            "FlashInferFull",
            HALF,
            grouped_heads=True,
            head_dim_multiple=8,
            max_head_dim=128,
            min_capability=(8, 0),
            graphs="same",
        ),
        paged=Support(
            "FlashInferPaged",
            HALF,
            grouped_heads=True,
            head_dims=frozenset({64, 128, 256}),
            float8=True,
            min_capability=(8, 0),
        ),
        package="flashinfer",
        extra="flashinfer",
    ),
    "triton": Row(
        "triton",
        full=Support(
            "TritonFull",
            ANY_FLOAT,
            bias=True,
            grouped_heads=True,
            max_head_dim=256,
            min_capability=(8, 0),
        ),
        paged=Support(
            "TritonPaged",
            ANY_FLOAT,
            bias=True,
            grouped_heads=True,
            max_head_dim=256,
            float8=True,
            min_capability=(8, 0),
        ),
        package="triton",
    ),
    "flex": Row(
        "flex",
        full=Support(
            "FlexFull",
            ANY_FLOAT,
            bias=True,
            grouped_heads=True,
            max_head_dim=256,
            min_capability=(8, 0),
            graphs="none",
        ),
        package="triton",
    ),
    "xformers": Row(
        "xformers",
        full=Support("XformersFull", ANY_FLOAT, bias=True, head_dim_multiple=8, graphs="none"),
        package="xformers",
        extra="xformers",
    ),
}


def backend_row(name: str) -> Row:
    """Raises AttentionBackendError for a name that is not in the table."""
    if name not in BACKENDS:
        raise AttentionBackendError(
            f"unknown attention backend '{name}'.{nearest(name, ['auto', *BACKENDS])}"
        )
    return BACKENDS[name]


def check_backend(half: Literal["encoder", "decoder"], name: str, on_cpu: bool) -> None:
    """Raises AttentionBackendError for a backend that can serve no model in this half: it is not
    installed, has no such attention or, if `on_cpu`, does not run on a CPU.

    `choose` checks the rest, which depends on the model and the device.
    """
    kinds: dict[str, Kind] = {"encoder": "full", "decoder": "causal"}

    def reason(row: Row) -> str | None:
        support = row.support(kinds[half])
        if support is None:
            return f"has no {kinds[half]} attention"
        if on_cpu and "cpu" not in support.devices:
            return "does not run on cpu"
        return row.missing

    if (why := reason(backend_row(name))) is not None:
        valid = ", ".join(name for name, row in BACKENDS.items() if reason(row) is None)
        raise AttentionBackendError(
            f"{half}_attention_backend='{name}' cannot be used: {why}. Valid here: {valid}"
        )
