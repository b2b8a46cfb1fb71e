"""One layer's cross-attention in a decode step: on keys and values, and on hidden states.

    python benchmarks/scripts/latent_attention.py [--sequences 1,16,64,256] [--tokens 1500]
        [--models 20x1280,12x768] [--queries 1] [--float8] [--warps] [--device cpu]

`--models`: heads x width of the hidden states, with heads of 64. `--float8`: states, keys and
values are float8. Each figure is microseconds, on a CUDA device of calls in a graph, over pages
that no cache holds. `kv`: attention to keys and values. `latent`: attention to hidden states alone;
`absorbed`: with the two products around it that stand in for the projections of keys and values.
`kv floor`, `latent floor`: the bytes of the keys and values, of the states, at the rate of a copy.
`error`: of the latent form beside attention to keys and values made of the same states in float32,
as a share of its size. `--warps`: not by the kernel of `kernels/latent_wgmma.py`, but by that of
`latent_mma.py`. A CPU computes in float32; it shows that the script runs, not what a GPU needs.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import torch

from antiphon.attention.interface import AttentionSpec, PagedBatch, PlannedAttention
from antiphon.attention.selection import select_paged
from antiphon.benchmarks.machine import measure, seconds_in_graph
from antiphon.benchmarks.report import Row, table
from antiphon.config.arithmetic import ceil_div
from antiphon.kernels import latent_wgmma
from antiphon.kernels.formats import FLOAT8
from antiphon.kv.state_pages import StatePages
from antiphon.layers.absorbed import AbsorbedProjections
from antiphon.layers.linear import StackedLinear

PAGE_SIZE, HEAD_DIM = 16, 64
ROTATED = 1 << 30  # bytes that a measurement reads in turn: beyond any cache
ROTATED_ON_CPU = 1 << 26
MOST_COPIES = 32
Call = Callable[[int], object]


@dataclass(frozen=True)
class Case:
    """`sequences` of `tokens` states, with `queries` query tokens each; `heads` over states of
    `width` features."""

    sequences: int
    tokens: int
    queries: int
    heads: int
    width: int
    device: torch.device
    float8: bool = False

    @property
    def stored(self) -> torch.dtype:
        """Of states, keys and values."""
        return FLOAT8 if self.float8 else self.dtype

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    @property
    def num_pages(self) -> int:
        return self.sequences * ceil_div(self.tokens, PAGE_SIZE)

    @property
    def state_bytes(self) -> int:
        return self.sequences * self.tokens * self.width * self.stored.itemsize

    @property
    def kv_bytes(self) -> int:
        return 2 * self.sequences * self.tokens * self.heads * HEAD_DIM * self.stored.itemsize

    def batch(self) -> PagedBatch:
        pages = np.random.default_rng(0).permutation(self.num_pages).astype(np.int32)
        queries = np.full(self.sequences, self.queries)
        lengths = np.full(self.sequences, self.tokens)
        return PagedBatch.of(queries, lengths, pages.reshape(self.sequences, -1), self.device)

    def attention(self, latent: bool) -> PlannedAttention[object]:
        """By the backend that `auto` takes here."""
        spec = AttentionSpec(
            "latent" if latent else "cross",
            self.heads,
            1 if latent else self.heads,
            self.width if latent else HEAD_DIM,
            HEAD_DIM**-0.5,
            self.dtype,
            self.device,
            page_size=PAGE_SIZE,
            kv_dtype=self.stored if self.float8 else None,
        )
        (backend,) = select_paged("decoder", "auto", [spec])
        return PlannedAttention.of(backend, self.batch())

    def copies(self, num_bytes: int) -> int:
        room = ROTATED if self.device.type == "cuda" else ROTATED_ON_CPU
        return max(2, min(MOST_COPIES, room // num_bytes))


def measured(case: Case, copy_rate: float) -> Row:
    """`copy_rate`: bytes per second; 0 where it was not measured."""
    torch.manual_seed(0)
    make = partial(torch.randn, device=case.device, dtype=case.dtype)
    projection = _projection(case)
    absorbed = AbsorbedProjections(projection, HEAD_DIM)
    q = make(case.sequences * case.queries, case.heads, HEAD_DIM)
    states = [_state_pages(case) for _ in range(case.copies(case.state_bytes))]
    latent, wide = case.attention(latent=True), absorbed.queries(q)

    def attend(i: int) -> torch.Tensor:
        return latent.run(wide, states[i].heads, states[i].heads)

    def attend_and_project(i: int) -> torch.Tensor:
        heads = states[i].heads
        return absorbed.outputs(latent.run(absorbed.queries(q), heads, heads))

    row: Row = {
        "sequences": case.sequences, "tokens": case.tokens, "queries": case.queries,
        "heads": case.heads, "width": case.width,
        "latent": _microseconds(attend, len(states), case.device),
        "absorbed": _microseconds(attend_and_project, len(states), case.device),
        "latent MB": case.state_bytes / 1e6, "kv MB": case.kv_bytes / 1e6,
        "error": _error(case, projection, q, states[0], attend_and_project(0)),
    }  # fmt: skip
    states.clear()
    pools = [
        make(2, case.num_pages, PAGE_SIZE, case.heads, HEAD_DIM).to(case.stored)
        for _ in range(case.copies(case.kv_bytes))
    ]
    cross = case.attention(latent=False)
    row["kv"] = _microseconds(lambda i: cross.run(q, *pools[i]), len(pools), case.device)
    if copy_rate:
        row["latent floor"] = case.state_bytes / copy_rate * 1e6
        row["kv floor"] = case.kv_bytes / copy_rate * 1e6
    return row


def _projection(case: Case) -> StackedLinear:
    """Of keys and values, with weights like a trained layer's."""
    inner = case.heads * HEAD_DIM
    layer = StackedLinear(case.width, {"k": inner, "v": inner}, bias=True).to(case.device)
    layer.weight.data.normal_(std=case.width**-0.5)
    return layer.to(case.dtype)


def _state_pages(case: Case) -> StatePages:
    pages = StatePages(case.num_pages, PAGE_SIZE, case.width, case.stored, case.device)
    pages.pages.copy_(torch.randn(pages.pages.shape, device=case.device))
    return pages


def _error(
    case: Case, projection: StackedLinear, q: torch.Tensor, states: StatePages, ours: torch.Tensor
) -> float:
    """Of the first sequence."""
    pages = case.batch().page_table_on_device[0].long()
    read = states.pages[pages].flatten(0, 1)[: case.tokens].float()
    weight, bias = projection.weight.float(), projection.bias
    assert bias is not None
    projected = torch.nn.functional.linear(read, weight, bias.float())
    k, v = (part.unflatten(1, (-1, HEAD_DIM)).transpose(0, 1) for part in projected.chunk(2, 1))
    first = q[: case.queries].float().transpose(0, 1)
    wanted = torch.nn.functional.scaled_dot_product_attention(first, k, v).transpose(0, 1)
    got = ours[: case.queries].float()
    return float((got - wanted).norm() / wanted.norm())


def _microseconds(call: Call, copies: int, device: torch.device) -> float:
    if device.type == "cuda":
        return seconds_in_graph(call, copies) * 1e6
    call(0)
    began = time.perf_counter()
    for i in range(copies):
        call(i)
    return (time.perf_counter() - began) / copies * 1e6


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sequences", default="1,2,4,8,16,32,64,128,256")
    parser.add_argument("--tokens", default="1500")
    parser.add_argument("--models", default="20x1280,16x1024,12x768,32x2048")
    parser.add_argument("--queries", default="1")
    parser.add_argument("--float8", action="store_true")
    parser.add_argument("--warps", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    if options.warps:
        latent_wgmma.takes = lambda *_: False
    device, copy_rate = torch.device(options.device), 0.0
    if device.type == "cuda":
        machine = measure()
        print(machine)
        copy_rate = machine.copy_bytes_per_second
    rows: list[Row] = []
    numbers = [map(int, option.split(",")) for option in (
        options.sequences, options.tokens, options.queries
    )]  # fmt: skip
    for model, (sequences, tokens, queries) in product(
        options.models.split(","), product(*numbers)
    ):
        heads, width = map(int, model.split("x"))
        case = Case(sequences, tokens, queries, heads, width, device, options.float8)
        rows.append(measured(case, copy_rate))
        print(table(rows[-1:]), flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
