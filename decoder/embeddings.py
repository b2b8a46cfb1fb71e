"""Hidden states of encoders in place of prompt tokens."""

from collections.abc import Sequence

import torch

from antiphon.kv.arena import StateArena
from antiphon.scheduler.plan import Embedding


def put_embeddings(x: torch.Tensor, embeddings: Sequence[Embedding], arena: StateArena) -> None:
    """Overwrites rows of a step's embedded tokens `x` [tokens, hidden] with hidden
    states of the arena, which keeps them."""
    for part in embeddings:
        x[part.token : part.token + part.count] = arena.get(part.key, part.first, part.count)
