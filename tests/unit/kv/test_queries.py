"""Queries of some heads of some layers, kept in pages."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from antiphon.kv.queries import QueryPages

HEADS, SIZE, PAGES, PAGE_SIZE = 3, 4, 5, 8
CPU = torch.device("cpu")


class Counted(TorchDispatchMode):
    """Operations that run, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func.namespace == "aten" and not func.is_view:
            self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


def query_pages(heads: dict[int, list[int]]) -> QueryPages:
    return QueryPages(heads, HEADS, (PAGES, PAGE_SIZE, SIZE), torch.float32, CPU)


@pytest.mark.parametrize(
    "heads",
    [{0: [0, 1, 2], 1: [0, 1, 2]}, {3: [1]}, {4: [2, 0], 1: [1]}, {0: [0, 1, 2], 2: [1, 2]}],
)
def test_the_wanted_heads_of_each_layer_are_kept(heads: dict[int, list[int]]) -> None:
    kept = query_pages(heads)
    queries = {layer: torch.randn(6, HEADS, SIZE) for layer in heads}
    slots = torch.tensor([9, 3, 39, 0, 17, 8], dtype=torch.int32)
    kept.write(slots, queries)
    wanted = torch.cat([queries[layer][:, heads[layer]] for layer in sorted(heads)], dim=1)
    assert torch.equal(kept.read(slots.long()), wanted)
    others = torch.ones(PAGES * PAGE_SIZE, dtype=torch.bool)
    others[slots.long()] = False
    assert not kept.pages.flatten(0, 1)[others].any()


@pytest.mark.parametrize("of_layer", [[0, 1, 2], [1]])
def test_more_layers_are_no_more_kernels(of_layer: list[int]) -> None:
    """Each kernel of a layer counts in a step of few sequences."""
    counts = []
    for layers in (1, 8):
        heads = dict.fromkeys(range(layers), of_layer)
        kept, queries = query_pages(heads), {layer: torch.ones(2, HEADS, SIZE) for layer in heads}
        with Counted() as counted:
            kept.write(torch.tensor([1, 2], dtype=torch.int32), queries)
        counts.append(len([name for name in counted.names if not name.startswith("detach")]))
    assert counts[0] == counts[1] <= 5


def test_steps_of_typical_layers_alone_keep_nothing() -> None:
    """They run while kernels are compiled."""
    kept = query_pages({1: [0], 2: [1]})
    kept.write(torch.tensor([3], dtype=torch.int32), {1: torch.ones(1, HEADS, SIZE)})
    assert not kept.pages.any()
