"""A step whose ranks hang ends with an error instead of for ever."""

import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from antiphon.actors.encoder_worker import EncoderWorker
from antiphon.decoder.launched_step import LaunchedStep
from antiphon.decoder.sampling.samples import Samples
from antiphon.runtime.ranks import RankError
from antiphon.runtime.waiting import WaitLimit


class Never:
    """The event of a device that hangs."""

    def query(self) -> bool:
        return False

    def synchronize(self) -> None:
        raise AssertionError("that would take for ever")


def test_a_decoder_step_is_not_waited_for_longer_than_ranks_may_take() -> None:
    done: Any = Never()
    samples = Samples.empty(1, torch.device("cpu"))
    step = LaunchedStep(samples, None, None, done, {}, WaitLimit(0.05))
    with pytest.raises(RankError, match="a decoder step is not done"):
        step.result()


def test_an_encoder_batch_neither() -> None:
    ranks = SimpleNamespace(limit=WaitLimit(0.05))
    worker: Any = SimpleNamespace(
        runner=SimpleNamespace(ranks=ranks),
        _has_room=False,
        _departures=SimpleNamespace(check=lambda: None),
        turned_at=0.0,
    )
    batch: Any = SimpleNamespace(done=Never())
    began = time.monotonic()
    with pytest.raises(RankError, match="an encoder batch is not done"):
        EncoderWorker._wait(worker, batch)
    assert worker.turned_at >= began  # meanwhile the loop does not count as one that hangs
