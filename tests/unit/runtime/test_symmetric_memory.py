"""Sums by symmetric memory: which way, for what, and what happens where a rank has none. The ranks
are threads, and the memory is that of a fake."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from thread_group import ThreadGroup, run_ranks
from thread_memory import ThreadBuffer
from torch._C._distributed_c10d import (
    FakeProcessGroup,
    PrefixStore,
    _resolve_process_group,
    _unregister_process_group,
)

from antiphon.runtime.symmetric_memory import (
    ENVIRONMENT,
    TWO_SHOT_BYTES,
    SymmetricMemoryError,
    SymmetricSum,
    TorchBuffer,
    Way,
    choose_way,
    share_memory,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("ranks", "rows", "dtype", "way"),
    [
        (2, 1, torch.bfloat16, Way.ONE_SHOT),
        (2, 128, torch.bfloat16, Way.ONE_SHOT),
        (2, 204, torch.bfloat16, Way.ONE_SHOT),  # 522,240 bytes of 524,288
        (2, 205, torch.bfloat16, Way.TWO_SHOT),
        (2, 512, torch.bfloat16, Way.TWO_SHOT),  # the largest that is measured
        (2, 513, torch.bfloat16, Way.NCCL),
        (2, 128, torch.float16, Way.TWO_SHOT),  # added in float32
        (2, 257, torch.float32, Way.NCCL),
        (4, 64, torch.bfloat16, Way.ONE_SHOT),
        (4, 128, torch.bfloat16, Way.TWO_SHOT),
        (2, 1, torch.int64, Way.NCCL),
        (2, 0, torch.bfloat16, Way.NCCL),
    ],
)
def test_the_way_depends_on_the_size(ranks: int, rows: int, dtype: torch.dtype, way: Way) -> None:
    assert choose_way(torch.Size([rows, 1280]), dtype, ranks) is way


def test_what_threads_cannot_read_in_whole_is_left_to_nccl() -> None:
    assert choose_way(torch.Size([1, 8]), torch.bfloat16, 2) is Way.ONE_SHOT
    assert choose_way(torch.Size([1, 9]), torch.bfloat16, 2) is Way.NCCL


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("ranks", [2, 3])
def test_sums_are_right_and_their_own(ranks: int, dtype: torch.dtype) -> None:
    """A sum stays what it is while later ones use the same buffer; `x` may have any strides."""

    def work(group: ThreadGroup) -> tuple[list[torch.Tensor], list[str]]:
        buffer = ThreadBuffer(group)
        total = SymmetricSum(buffer, group.size)
        terms = [x[group.rank] for x in every]
        return [total(x.t()) for x in terms], buffer.calls  # type: ignore[misc]  # none is None

    torch.manual_seed(0)
    every = [torch.randn(ranks, 64, rows).to(dtype) for rows in (1, 512, 3, 4800, 8)]
    for sums, calls in run_ranks(ranks, work):
        assert {"one_shot", "two_shot"} == set(calls)
        for x, own in zip(every, sums, strict=True):
            assert own.dtype == dtype
            torch.testing.assert_close(
                own.float(), x.float().sum(0).t(), atol=0.05, rtol=torch.finfo(dtype).eps
            )


def test_what_is_too_large_is_not_summed() -> None:
    total = SymmetricSum(ThreadBuffer(ThreadGroup.make(1)[0]), 2)
    assert total(torch.zeros(TWO_SHOT_BYTES // 4 + 4)) is None
    assert total(torch.zeros(8, dtype=torch.int64)) is None


def shared(group: ThreadGroup, fails_on: int, stage: str) -> str:
    class Buffer(ThreadBuffer):
        def __init__(self, group: ThreadGroup) -> None:
            if stage == "take":
                self._fail()
            super().__init__(group)

        def connect(self) -> None:
            super().connect()
            if stage == "connect":
                self._fail()

        def two_shot(self, view: torch.Tensor) -> None:
            super().two_shot(view)
            if stage == "sum" and group.rank == fails_on:
                view += 1

        def _fail(self) -> None:
            if group.rank == fails_on:
                raise RuntimeError("no peer access")

    try:
        share_memory(group, lambda: Buffer(group), CPU)
    except SymmetricMemoryError as error:
        return str(error)
    return "shared"


@pytest.mark.parametrize("stage", ["take", "connect", "sum"])
@pytest.mark.parametrize("fails_on", [0, 2])
def test_all_ranks_share_memory_or_none(fails_on: int, stage: str) -> None:
    messages = run_ranks(3, lambda group: shared(group, fails_on, stage))
    reason = "two shot sums are wrong" if stage == "sum" else "no peer access"
    for rank, message in enumerate(messages):
        assert "not all 3 ranks can map each other's memory" in message
        assert (reason if rank == fails_on else "another rank fails") in message


def test_ranks_that_can_share_memory_do() -> None:
    assert run_ranks(3, lambda group: shared(group, -1, "none")) == ["shared"] * 3


def test_a_cpu_has_no_symmetric_memory() -> None:
    """The group is known to torch by its name, with the store of its ranks."""
    store = PrefixStore("memory", dist.HashStore())
    group = FakeProcessGroup._create_internal(1, 2)
    with pytest.raises(RuntimeError, match="does not support device type cpu") as error:
        TorchBuffer(store, group, "a test's ranks", CPU)
    assert error.tb  # keeps what was made: torch knows a group as long as it lives
    ranks: Any = _resolve_process_group("a test's ranks")  # type: ignore[arg-type]
    assert (ranks.rank(), ranks.size(), ranks.group_name) == (1, 2, "a test's ranks")
    _unregister_process_group("a test's ranks")  # type: ignore[arg-type]


def test_ranks_meet_without_multicast_and_whatever_number_their_gpus_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import os

    seen: list[dict[str, str | None]] = []

    class Torch:
        @staticmethod
        def rendezvous(memory: object, name: str) -> str:
            seen.append({name: os.environ.get(name) for name in ENVIRONMENT})
            if len(seen) == 1:
                raise RuntimeError("get_group_info: no group info associated with the group name")
            return "handle"

        @staticmethod
        def set_group_info(name: str, rank: int, size: int, store: str) -> None:
            registered.append((name, rank, size, store))

    registered: list[Any] = []
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    buffer = TorchBuffer.__new__(TorchBuffer)
    buffer._torch, buffer._info = Torch, ("ranks", 0, 2, "store")  # type: ignore[assignment]
    buffer._bytes, buffer._name = torch.zeros(1), "ranks"
    buffer.connect()
    assert seen == [ENVIRONMENT] * 2
    assert registered == [("ranks", 0, 2, "store")]
    assert not set(ENVIRONMENT) & set(os.environ)
