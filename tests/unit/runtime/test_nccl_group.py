"""What a group on GPUs asks of torch, with a stand-in for torch's NCCL."""

from typing import Any

import pytest
import torch
from thread_group import ThreadGroup, run_ranks
from thread_memory import ThreadBuffer
from torch.distributed import HashStore

from antiphon.kernels.shared_rows import SHARED_BYTES, SharedRows
from antiphon.runtime.nccl_group import NcclGroup
from antiphon.runtime.ranks import RankError
from antiphon.runtime.symmetric_memory import SymmetricSum
from antiphon.runtime.torch_groups import MAX_SENDS

CPU = torch.device("cpu")


class Send:
    def __init__(self, x: torch.Tensor) -> None:
        self.x, self.done, self.waited = x, False, False

    def is_completed(self) -> bool:
        return self.done

    def wait(self) -> None:
        self.waited = True


class Nccl:
    """As `ProcessGroupNCCL`, which returns no work for what runs on the current stream."""

    def __init__(self, error: str | None = None) -> None:
        self.calls: list[tuple[str, bool]] = []
        self.sends: list[Send] = []
        self._error = error

    def _note(self, name: str, options: Any) -> None:
        if self._error is not None:
            raise RuntimeError(self._error)
        self.calls.append((name, options.asyncOp))

    def allreduce(self, tensors: list[torch.Tensor], options: Any) -> None:
        self._note("allreduce", options)

    def _allgather_base(self, into: torch.Tensor, x: torch.Tensor, options: Any) -> None:
        self._note("allgather", options)

    def broadcast(self, tensors: list[torch.Tensor], options: Any) -> None:
        assert options.rootRank == 1
        self._note("broadcast", options)

    def send(self, tensors: list[torch.Tensor], target: int, tag: int) -> Send:
        self.sends.append(Send(tensors[0]))
        return self.sends[-1]


def test_collectives_run_on_the_current_stream() -> None:
    nccl = Nccl()
    group = NcclGroup(nccl, 0, 2, CPU)
    group.all_reduce(torch.ones(2))
    assert group.all_gather(torch.ones(3, 4)).shape == (2, 3, 4)
    group.broadcast(torch.ones(2), 1)
    assert nccl.calls == [("allreduce", False), ("allgather", False), ("broadcast", False)]


def test_sends_wait_for_nobody_and_keep_what_is_on_its_way() -> None:
    nccl = Nccl()
    group = NcclGroup(nccl, 0, 2, CPU)
    x = torch.zeros(2)
    for number in range(MAX_SENDS):
        x.fill_(number)
        group.send(x, 1)
    assert [send.x[0].item() for send in nccl.sends] == list(range(MAX_SENDS))
    assert not any(send.waited for send in nccl.sends)
    assert len(group._sent) == MAX_SENDS
    nccl.sends[0].done = nccl.sends[1].done = True
    group.send(x, 1)
    assert len(group._sent) == MAX_SENDS - 1
    group.send(x, 1)
    group.send(x, 1)
    assert [send.waited for send in nccl.sends] == [False, False, True] + [False] * MAX_SENDS


def test_small_sums_go_by_symmetric_memory_where_there_is_some() -> None:
    def work(group: ThreadGroup) -> tuple[list[float], list[tuple[str, bool]]]:
        own = NcclGroup(nccl := Nccl(), group.rank, group.size, CPU)
        own.all_reduce(torch.ones(8))
        own.small_sum = SymmetricSum(ThreadBuffer(group), group.size)
        small = own.all_reduce(torch.full((8,), group.rank + 1.0))
        own.all_reduce(torch.ones(2**20))
        return small.tolist(), nccl.calls

    assert run_ranks(3, work) == [([6.0] * 8, [("allreduce", False)] * 2)] * 3


def test_without_symmetric_memory_nccl_makes_all_sums(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    nccl = Nccl()
    group = NcclGroup(nccl, 0, 2, CPU)
    monkeypatch.setattr(group, "all_gather", lambda works: works)  # what all ranks say
    monkeypatch.setattr(
        "antiphon.runtime.nccl_group.TorchBuffer", lambda *_: (_ for _ in ()).throw(OSError("none"))
    )
    group.share_memory(HashStore(), "name")
    assert "sums of ranks all go through NCCL: not all 2 ranks can map" in caplog.text
    assert "none" in caplog.text
    group.all_reduce(torch.ones(8))
    assert nccl.calls == [("allreduce", False)]


def test_norms_sum_over_ranks_where_that_was_shared_and_terms_are_small() -> None:
    group = NcclGroup(Nccl(), 0, 3, CPU)
    x = torch.zeros(4, 1280)
    assert group.shared_rows(x) is None
    memory = torch.zeros(SHARED_BYTES, dtype=torch.uint8)
    group._rows = SharedRows.of(memory, [memory.data_ptr()] * 3, 0)
    group._norm_bytes = 4 * 1280 * 4
    assert group.shared_rows(x) is group._rows
    assert group.shared_rows(torch.zeros(5, 1280)) is None
    assert group.shared_rows(torch.zeros(1, 4097)) is None


def test_norms_that_cannot_sum_leave_it_to_small_sums(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = NcclGroup(Nccl(), 0, 2, CPU)
    monkeypatch.setattr(group, "all_gather", lambda works: works)

    def take(store: Any, of: Any, name: str, *_: Any) -> Any:
        if name == "name rows":
            raise OSError("no more memory")

    monkeypatch.setattr("antiphon.runtime.nccl_group.TorchBuffer", take)
    monkeypatch.setattr("antiphon.runtime.nccl_group.share_memory", lambda *_: "small sums")
    group.share_memory(HashStore(), "name", norm_bytes=1 << 20)
    assert "norms do not sum over ranks themselves" in caplog.text
    assert "no more memory" in caplog.text
    assert group.small_sum == "small sums"  # type: ignore[comparison-overlap]
    assert group.shared_rows(torch.zeros(1, 8)) is None


def test_errors_of_nccl_are_typed() -> None:
    group = NcclGroup(Nccl("NCCL error: remote process exited"), 0, 2, CPU)
    with pytest.raises(RankError, match="in vain for another rank in all_gather: NCCL error"):
        group.all_gather(torch.ones(1))
