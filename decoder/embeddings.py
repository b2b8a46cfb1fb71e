"""Hidden states of encoders in place of prompt tokens."""

from collections.abc import Sequence

import torch

from antiphon.kv.handoff import HandoffBuffer
from antiphon.scheduler.plan import Embedding


def put_embeddings(
    x: torch.Tensor, embeddings: Sequence[Embedding], handoff: HandoffBuffer
) -> None:
    """Overwrites rows of a step's embedded tokens `x` [tokens, hidden] with hidden states that are
    in the handoff buffer, where they stay."""
    for part in embeddings:
        states = handoff.get(part.key)[part.first : part.first + part.count]
        x[part.token : part.token + part.count] = states
