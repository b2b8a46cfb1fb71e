"""What is declared of an attention backend: what it can do, and where it comes from. The table is
in `registry.py`."""

import importlib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from antiphon.attention.interface import FullAttention, Kind, PagedAttention

CUDA, CPU = frozenset({"cuda"}), frozenset({"cpu"})
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
    float8: bool = False  # keys and values in pages may be float8; full: all products are
    float8_head_dim_multiple: int = 1  # with float8 pages
    min_capability: tuple[int, int] | None = None  # of a CUDA device
    max_capability: tuple[int, int] | None = None
    graphs: Graphs = "any"


@dataclass(frozen=True)
class Row:
    """One backend: its attention in encoders (`full`), in decoders (`paged`), and in decoders to an
    encoder's hidden states (`latent`), if it has it."""

    module: str  # in attention/backends/
    full: Support | None = None
    paged: Support | None = None
    latent: Support | None = None
    package: str | None = None  # what must be importable, and is named in the refusal
    distribution: str | None = None  # what must be installed, where another one has its module too
    extra: str | None = None  # the extra of ours that installs it
    install: str | None = None  # where it comes from, if no extra can
    # Another build of its kernels, which may have fewer: in use where that alone is installed.
    instead: "Row | None" = None

    def support(self, kind: "Kind") -> Support | None:
        if kind == "latent":
            return self.latent
        return self.full if kind == "full" else self.paged

    @property
    def in_use(self) -> "Row":
        """This one, or what is there in its place."""
        other = self.instead
        return self if other is None or not self.missing or other.missing else other

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
        if not self.install:
            return ""
        less = (
            "" if self.instead is None else f", or 'antiphon[{self.instead.extra}]', a part of it"
        )
        return f" (install it {self.install}{less})"

    def full_class(self) -> "type[FullAttention[object]]":
        """Imports the backend, and with it whatever it is built on."""
        from antiphon.attention.interface import FullAttention  # not above: it imports torch

        assert self.full is not None
        implementation = self._load(self.full)
        assert issubclass(implementation, FullAttention)
        return implementation

    def paged_class(self, kind: "Kind") -> "type[PagedAttention[object]]":
        """As `full_class`."""
        from antiphon.attention.interface import PagedAttention

        support = self.support(kind)
        assert support is not None
        implementation = self._load(support)
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
