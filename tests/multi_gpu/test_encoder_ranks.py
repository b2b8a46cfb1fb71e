"""Encoder replicas of several processes: the hidden states of one process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle import clips
from rank_courses import encoded

from antiphon.config.parallel import Parallel

FAMILIES = ["bart", "t5", "whisper"]
LAYOUTS = [Parallel(2), Parallel(2, mode="data"), Parallel(1, 2), Parallel(2, 2)]
WINDOW = 16_000  # samples of the tiny Whisper's window


def batches(family: str) -> list[list[np.ndarray]]:
    """Of several inputs, of one, and of several again."""
    rng = np.random.default_rng(2)

    def text() -> np.ndarray:
        return rng.integers(3, 60, int(rng.integers(2, 30))).astype(np.int32)

    inputs = clips(6, WINDOW) if family == "whisper" else [text() for _ in range(6)]
    return [inputs[:3], inputs[3:4], inputs[2:]]


@pytest.mark.parametrize("family", FAMILIES)
def test_ranks_encode_as_one_does(
    family: str,
    device: str,
    run_ranks: Callable[..., list[Any]],
    folder_of: Callable[[str], Path],
) -> None:
    """The leader has the hidden states: of weights that are shared, of inputs, and of stages."""
    for eager in (False, True) if device == "cuda" else (True,):
        options = {"device": device, "dtype": "float32", "enforce_eager": eager}
        arguments = folder_of(family), batches(family), options
        (expected,) = run_ranks(Parallel(), encoded, *arguments)
        for parallel in LAYOUTS if device == "cpu" or four_gpus() else LAYOUTS[:3]:
            actual = run_ranks(parallel, encoded, *arguments)[parallel.leader]
            for one, other in zip(actual, expected, strict=True):
                np.testing.assert_allclose(one, other, atol=2e-4, rtol=1e-3, err_msg=str(parallel))


def four_gpus() -> bool:
    import torch

    return torch.cuda.device_count() >= 4
