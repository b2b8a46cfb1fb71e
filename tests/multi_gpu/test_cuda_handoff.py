"""Two processes with a GPU each: one writes hidden states into the other one's arena.

python -m pytest -m multi_gpu tests/multi_gpu/test_cuda_handoff.py

The same checks run on a CPU in `unit/kv/test_arena_processes.py`; the protocol around them is
tested in `unit/actors/test_arena_places.py`.
"""

import pytest
import torch
from arena_writer import CLIPS, check_batches, check_deaths

from antiphon.kv.arena import StateArena

pytestmark = [
    pytest.mark.multi_gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices"),
]
TOKENS, WIDTH = 1500, 1280  # 8 clips are 31 MB in bfloat16
LEFT_BYTES = 64 << 20  # what a driver may still hold of a process that has just ended


@pytest.fixture
def arena() -> StateArena:
    return StateArena(2 * CLIPS * TOKENS, WIDTH, torch.bfloat16, torch.device("cuda", 0))


def test_batches_arrive_bit_for_bit_in_their_rows_alone(arena: StateArena) -> None:
    check_batches(arena, 100)


def test_a_killed_encoder_harms_nobody_and_leaves_nothing(arena: StateArena) -> None:
    check_deaths(arena, 1)  # loads what stays
    before = [torch.cuda.mem_get_info(gpu)[0] for gpu in range(2)]
    check_deaths(arena, 3)
    after = [torch.cuda.mem_get_info(gpu)[0] for gpu in range(2)]
    assert all(now > then - LEFT_BYTES for now, then in zip(after, before, strict=True))
