"""Hidden states of encoders in place of prompt tokens."""

from collections.abc import Sequence

import numpy as np
import torch

from antiphon.kv.arena import StateArena
from antiphon.runtime.device import to_device
from antiphon.scheduler.plan import Embedding

NONE = -1


class PromptStates:
    """Which rows of the arena stand in place of a step's tokens: on the device, at one address, so
    that a captured step finds those of every later one."""

    def __init__(self, arena: StateArena, num_tokens: int) -> None:
        """`num_tokens`: of the largest step."""
        self._arena = arena
        self._host = np.full(num_tokens, NONE, np.int64)
        self._rows = torch.full((num_tokens,), NONE, device=arena.device)
        self._placed = 0  # tokens of the last step that had any

    def fill(self, embeddings: Sequence[Embedding]) -> None:
        """For the step that is launched next, behind whatever the device's stream does now."""
        end = max((part.token + part.count for part in embeddings), default=0)
        changed = max(end, self._placed)
        if not changed:
            return
        rows = self._host[:changed]
        rows[:] = NONE
        for part in embeddings:
            of_key = self._arena.rows([part.key])[part.first : part.first + part.count]
            rows[part.token : part.token + part.count] = of_key
        self._rows[:changed] = to_device(rows, self._arena.device)
        self._placed = end

    def put(self, x: torch.Tensor) -> torch.Tensor:
        """A step's embedded tokens `x` [tokens, hidden], with hidden states in place of some. The
        arena keeps them."""
        rows = self._rows[: len(x)]
        states = self._arena.states[rows.clamp(min=0)].to(x.dtype)
        return torch.where((rows > NONE)[:, None], states, x)
