"""Compiles our Triton kernels for a Hopper GPU on a machine without one. Prints how many.

Types that only the device's compiler checks (the interpreter does not) are met here: every dtype of
a model, float8 pages, quantized outputs. Run in a process without TRITON_INTERPRET.
"""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import triton
from compiled_linears import (
    FLOAT8,
    HALF,
    HEAD_DIM,
    HEADS,
    ROWS,
    WIDTH,
    grouped,
    pools,
    small_batches,
)
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from antiphon.config.arithmetic import ceil_div
from antiphon.config.decoding_rules import TimestampRules
from antiphon.decoder.sampling.settings import SETTINGS
from antiphon.kernels import (
    alignment,
    beam_candidates,
    norms,
    page_copy,
    page_write,
    readout,
    sampling,
    step_layout,
    summed_norm,
)
from antiphon.kernels import full_attention as full
from antiphon.kernels.float8_attention import float8_attention
from antiphon.kernels.latent_attention import latent_attention
from antiphon.kernels.latent_launch import LatentLaunch, TritonTile
from antiphon.kernels.paged_attention import BLOCK_M, Workspace, paged_attention
from antiphon.kernels.paged_launch import PagedLaunch
from antiphon.kernels.rotary import turned
from antiphon.kernels.row_copy import copy_rows
from antiphon.kernels.shared_rows import SHARED_BYTES, SharedRows

CPU = torch.device("cpu")
PAGE_SIZE = 16
SHARED_MEMORY = 227 << 10  # of a block: a kernel that asks for more can't be launched
# Queries, and heads that share their keys: compiled for one dtype, as only indices differ.
GROUPED = {torch.bfloat16: ((1, 5), (3, 5))}
LATENT = ((20, 1280), (12, 768), (16, 1024), (32, 2048), (3, 80))  # heads, and width of states


class HopperDriver:
    """What a compilation asks of a driver; nothing is launched."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def launches() -> Iterator[tuple[str, Any]]:
    """Names and calls of our launching functions, with every combination of types."""
    for dtype in (*HALF, torch.float32):
        x, vector = torch.zeros(ROWS, WIDTH, dtype=dtype), torch.zeros(WIDTH, dtype=dtype)
        parts, parts_bias = torch.zeros(4, ROWS, WIDTH), torch.zeros(WIDTH, dtype=dtype)
        for bias, (terms, terms_bias) in itertools.product(
            (vector, None), ((None, None), (x[None], None), (parts, parts_bias))
        ):
            arguments = (x, terms, terms_bias, vector, bias, 1e-5)
            yield f"add_norm {dtype}", partial(norms.add_norm, *arguments)
            yield f"add_norm_quantized {dtype}", partial(norms.add_norm_quantized, *arguments)
        for bias, quantize in itertools.product((vector, None), (False, True)):
            arguments = (x, x, vector, bias, 1e-5, _shared_rows(), quantize)
            yield f"summed_norm {dtype}", partial(summed_norm.summed_norm, *arguments)
        yield f"quantize_rows {dtype}", partial(norms.quantize_rows, x)
        for kind, gate in itertools.product(("relu", "gelu", "gelu_tanh", "silu"), (None, x)):
            yield f"activation {dtype}", partial(norms.activation, kind, x, gate)
            yield (
                f"activation_quantized {dtype}",
                partial(norms.activation_quantized, kind, x, gate),
            )
        for page_type in (dtype, FLOAT8):
            yield f"write_pages {dtype} {page_type}", partial(_write_pages, dtype, page_type)
            yield f"alignment {dtype} {page_type}", partial(_align, dtype, page_type)
            for causal in (True, False):
                for queries, group in ((1, 1), (3, 1), *GROUPED.get(dtype, ())):
                    yield (
                        f"paged_attention {dtype} {page_type} {group} heads share keys",
                        partial(_attend_pages, dtype, page_type, causal, queries, group),
                    )
        for heads, width in LATENT[: 1 if dtype == torch.float16 else len(LATENT)]:
            name = f"latent_attention {dtype} {heads} heads, {width} features"
            yield name, partial(_attend_states, dtype, dtype, heads, width)
        for group in (1, 5) if dtype in GROUPED else (1,):
            yield f"full_attention {dtype} {group} heads share keys", partial(_attend, dtype, group)
        for size in (64, 72, 80, 128):
            yield f"float8_attention {dtype} {size}", partial(_attend_float8, dtype, size)
        for size, planes in ((80, 40), (64, 16)):
            yield f"turned {dtype} {size}", partial(_turn, dtype, size, planes)
    of_float8 = partial(_attend_states, torch.bfloat16, FLOAT8, *LATENT[0])
    yield "latent_attention float8", of_float8
    for dtype in HALF:
        yield from small_batches(dtype)
        yield from grouped(dtype)
    for rules in (None, TimestampRules(67, 66, 60, 20)):
        for dtype, ranks in ((torch.float32, 1), (torch.float32, 2), (torch.bfloat16, 2)):
            yield f"greedy {rules} {dtype} {ranks}", partial(_sample, rules, dtype, ranks)
    yield "lay_out", _lay_out
    for dtype, target in itertools.product((*HALF, torch.float32), repeat=2):
        rows, addresses = torch.zeros(ROWS, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
        source = torch.zeros(ROWS, WIDTH, dtype=dtype)
        yield f"copy_rows {dtype} {target}", partial(copy_rows, source, rows, addresses, target)
    pages = torch.zeros(3, ROWS, dtype=torch.int64)
    yield "copy_pages", partial(page_copy.copy_pages, *pages, PAGE_SIZE * HEADS * HEAD_DIM * 2)
    for dtype in (*HALF, torch.float32):
        for ranks in (1, 2):
            yield f"read_out {dtype} {ranks}", partial(_read_out, dtype, ranks)


def _shared_rows() -> SharedRows:
    return SharedRows.of(torch.zeros(SHARED_BYTES, dtype=torch.uint8), [0, 0], 1)


def _write_pages(dtype: torch.dtype, page_type: torch.dtype) -> None:
    k = torch.zeros(ROWS, HEADS, HEAD_DIM, dtype=dtype)
    page_write.write_pages(k, k, *pools(page_type), torch.zeros(ROWS, dtype=torch.int32))


def _attend_pages(
    dtype: torch.dtype, page_type: torch.dtype, causal: bool, queries: int, group: int
) -> None:
    tokens, blocks = ROWS * queries, ceil_div(queries * group, BLOCK_M)
    shape, float8 = (ROWS, blocks, HEADS // group, HEAD_DIM, 1500), page_type == FLOAT8
    kind = "causal" if causal else "cross"
    launch = PagedLaunch.choose(kind, *shape, 132, float8 and group == 1)
    room = Workspace.make(
        launch.splits, tokens, ROWS * blocks, HEADS, HEAD_DIM, torch.device("cpu")
    )
    k, v = (
        pool[:, : HEADS // group].reshape(4, PAGE_SIZE, HEADS // group, HEAD_DIM)
        for pool in pools(page_type)
    )
    ints = partial(torch.zeros, dtype=torch.int32)
    paged_attention(
        torch.zeros(tokens, HEADS, HEAD_DIM, dtype=dtype), k, v, ints(ROWS + 1), ints(ROWS),
        ints(ROWS, 94), launch, room, max_query_len=queries, scale=1.0, causal=causal,
    )  # fmt: skip


def _align(dtype: torch.dtype, page_type: torch.dtype) -> None:
    ints = partial(torch.zeros, dtype=torch.int32)
    offsets, (first, _) = torch.zeros(HEADS, dtype=torch.int64), pools(page_type)
    keys = alignment.Keys(first, offsets, PAGE_SIZE * HEADS * HEAD_DIM, HEADS * HEAD_DIM, PAGE_SIZE)
    alignment.scores(
        torch.zeros(64, HEADS, HEAD_DIM, dtype=dtype), keys, ints(ROWS, 94), ints(20),
        ints(ROWS + 1), ints(ROWS), 20, 1500, scale=1.0, width=7, share=1.0,
    )  # fmt: skip


def _attend_states(dtype: torch.dtype, state_type: torch.dtype, heads: int, width: int) -> None:
    tile = TritonTile.of(heads, width, state_type.itemsize)
    launch, blocks = LatentLaunch.choose(tile, ROWS, heads, 1500, 132), ROWS * tile.blocks(heads)
    device = torch.device("cpu")
    room = Workspace.make(launch.splits, ROWS * heads, blocks, 1, tile.features, device)
    ints = partial(torch.zeros, dtype=torch.int32)
    latent_attention(
        torch.zeros(ROWS, heads, width, dtype=dtype),
        torch.zeros(4, PAGE_SIZE, width).to(state_type),
        ints(ROWS + 1), ints(ROWS), ints(ROWS, 94), launch, room, max_query_len=1, scale=1.0,
    )  # fmt: skip


def _attend(dtype: torch.dtype, group: int) -> None:
    heads = (HEADS, HEADS // group, HEADS // group)
    q, k, v = torch.zeros(32, sum(heads), HEAD_DIM, dtype=dtype).split(heads, 1)
    full.full_attention(q, k, v, torch.zeros(2, dtype=torch.int32), 32, 1.0)


def _turn(dtype: torch.dtype, size: int, planes: int) -> None:
    q, k, _ = torch.zeros(ROWS, 3 * HEADS, size, dtype=dtype).split(HEADS, 1)
    turned(q, k, *torch.zeros(2, ROWS, planes))


def _attend_float8(dtype: torch.dtype, size: int) -> None:
    q, k, v = torch.zeros(32, 3 * HEADS, size, dtype=dtype).split(HEADS, 1)
    float8_attention(q, k, v, torch.zeros(2, dtype=torch.int32), 32, 1.0)


def _sample(rules: TimestampRules | None, dtype: torch.dtype, ranks: int) -> None:
    logits, room = torch.zeros(ROWS, 512, dtype=dtype), sampling.workspace(ROWS, 512, CPU)
    state = sampling.SampledState(
        tokens=torch.zeros(4, 32, dtype=torch.int64), masks=torch.zeros(4, 512),
        stop_ids=torch.zeros(4, 32, dtype=torch.int64),
        settings={name: torch.zeros(4, dtype=torch.int64) for name in SETTINGS},
        timestamps=rules, first_id=512 * (ranks - 1), vocabulary=512 * ranks,
    )  # fmt: skip
    sampling.greedy(
        logits, *torch.zeros(2, ROWS, dtype=torch.int32), torch.zeros(ROWS, 3, dtype=torch.int64),
        room, state, _all_gather(ranks),
    )  # fmt: skip
    if ranks == 1:
        of_rows = torch.zeros(3, ROWS, dtype=torch.int64)
        beam_candidates.candidates(logits, *of_rows, 10, room, state)


def _lay_out() -> None:
    ints = partial(torch.zeros, dtype=torch.int32)
    step_layout.lay_out(
        *(ints(ROWS) for _ in range(5)), tables=ints(65, 128), cu_seqlens_q=ints(ROWS + 1),
        tokens=torch.zeros(65, 449, dtype=torch.int64), last_tokens=ints(ROWS),
        token_slots=ints(8), positions=ints(8), slot_mapping=ints(8),
        token_ids=torch.zeros(8, dtype=torch.int64), table_rows=ints(ROWS, 128),
        page_size=PAGE_SIZE, scratch_slot=64, scratch_position=1600, max_rows=64,
    )  # fmt: skip


def _read_out(dtype: torch.dtype, ranks: int) -> None:
    readout.read_out(
        torch.zeros(ROWS, 512, dtype=dtype), torch.zeros(ROWS, dtype=torch.int32),
        torch.zeros(ROWS), torch.zeros(ROWS, dtype=torch.int64), 512 * (ranks - 1), 512 * ranks,
        _all_gather(ranks),
    )  # fmt: skip


def _all_gather(ranks: int) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Of ranks that share the vocabulary; alone None."""
    return None if ranks == 1 else lambda numbers: numbers.expand(ranks, *numbers.shape)


def main() -> None:
    triton.runtime.driver.set_active(HopperDriver())
    run, compiled = JITFunction.run, set()

    def compile_only(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        built = run(kernel, *args, grid=grid, warmup=True, **options)
        if built.metadata.shared > SHARED_MEMORY:
            raise MemoryError(f"{built.metadata.shared} bytes of shared memory")
        compiled.add((kernel.__name__, built.hash))
        return built

    JITFunction.run = compile_only
    for name, launch in launches():
        try:
            launch()
        except Exception as error:
            raise SystemExit(f"{name}: {type(error).__name__}: {error}") from error
    print(len(compiled))


if __name__ == "__main__":
    main()
