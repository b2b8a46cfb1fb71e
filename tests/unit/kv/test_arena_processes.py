"""An encoder in another process writes into this one's arena, through shared memory."""

import pytest
import torch
from arena_writer import CLIPS, check_batches, check_deaths

from antiphon.kv.arena import StateArena

pytestmark = pytest.mark.slow


@pytest.fixture
def arena() -> StateArena:
    return StateArena(2 * CLIPS * 20, 64, torch.float32, torch.device("cpu"))


def test_batches_arrive_bit_for_bit_in_their_rows_alone(arena: StateArena) -> None:
    check_batches(arena, 20)


def test_a_killed_encoder_harms_nobody(arena: StateArena) -> None:
    check_deaths(arena, 1)
