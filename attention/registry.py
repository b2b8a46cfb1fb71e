"""The table of attention backends: what each can do, and where its classes are.

Reading the table imports none of them, nor torch: commands check names of backends before they
import what takes seconds.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from antiphon.attention.support import CPU, CUDA, Row, Support
from antiphon.config.errors import AttentionBackendError, nearest

if TYPE_CHECKING:
    from antiphon.attention.interface import Kind

HALF = frozenset({"float16", "bfloat16"})
ANY_FLOAT = HALF | {"float32"}
CPU_FLOAT = frozenset({"bfloat16", "float32"})
HOPPER = (9, 0)

FLASH_ATTENTION_3 = Support(
    "FlashAttention3Full",
    HALF,
    grouped_heads=True,
    head_dim_multiple=8,
    max_head_dim=256,
    min_capability=HOPPER,
    max_capability=HOPPER,
    graphs="same",
)

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
            float8=True,  # for measuring what it costs: it is slower
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
        latent=Support(
            "SdpaPaged",
            ANY_FLOAT,
            CPU | CUDA,
            score_cap=True,
            grouped_heads=True,
            float8=True,
            graphs="none",
        ),
    ),
    "cpu_paged": Row(
        "cpu_paged",
        paged=Support("CpuPaged", CPU_FLOAT, CPU, bias=True, grouped_heads=True),
        latent=Support("CpuPaged", CPU_FLOAT, CPU, grouped_heads=True),
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
        full=FLASH_ATTENTION_3,
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
        instead=Row(
            "flash_attn_3",
            full=replace(FLASH_ATTENTION_3, dtypes=frozenset({"bfloat16"})),
            package="fa3_fwd_interface",
            extra="fa3-fwd",
        ),
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
            float8=True,
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
        latent=Support(
            "TritonLatent",
            ANY_FLOAT,
            grouped_heads=True,
            max_head_dim=2048,
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
    """As it is in use here. Raises AttentionBackendError for a name that is not in the table."""
    if name not in BACKENDS:
        raise AttentionBackendError(
            f"unknown attention backend '{name}'.{nearest(name, ['auto', *BACKENDS])}"
        )
    return BACKENDS[name].in_use


def in_place(name: str, row: Row) -> str:
    """What a refusal adds where `row` is there in the place of the backend `name`."""
    return "" if row is BACKENDS[name] else f" in {row.package}, which alone is installed"


def check_backend(half: Literal["encoder", "decoder"], name: str, on_cpu: bool) -> None:
    """Raises AttentionBackendError for a backend that can serve no model in this half: it is not
    installed, has no such attention or, if `on_cpu`, does not run on a CPU.

    `choose` checks the rest, which depends on the model and the device.
    """
    kinds: dict[str, Kind] = {"encoder": "full", "decoder": "causal"}

    def reason(name: str) -> str | None:
        row = backend_row(name)
        support = row.support(kinds[half])
        if support is None:
            return f"has no {kinds[half]} attention{in_place(name, row)}"
        if on_cpu and "cpu" not in support.devices:
            return "does not run on cpu"
        return row.missing

    if (why := reason(name)) is not None:
        valid = ", ".join(name for name in BACKENDS if reason(name) is None)
        raise AttentionBackendError(
            f"{half}_attention_backend='{name}' cannot be used: {why}. Valid here: {valid}"
        )
