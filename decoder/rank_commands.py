"""What a replica's leader tells its other ranks: all that changes a device's state.

Every rank carries out all commands in order. Between processes, `actors/rank_wire.py`
encodes them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np

from antiphon.scheduler.alignment import AlignedSequence
from antiphon.scheduler.plan import StepPlan


class Launch(msgspec.Struct, frozen=True):
    """Run a step.

    `launched`: number of the latest plan that the leader has run (0: none). `refused`:
    of the plans that it has run since the last command of this kind, those in which its
    device refused settings, and of which slots; another rank that refused others would
    compute other tokens.
    """

    plan: StepPlan
    launched: int = 0
    refused: tuple[tuple[int, tuple[int, ...]], ...] = ()


@dataclass(frozen=True, eq=False)
class PutStates:
    """Take part in `Ranks.broadcast` of hidden states [sum of `lengths`, hidden]: they
    go from device to device, and into `rows` [sum of `lengths`] of the arena."""

    keys: tuple[str, ...]
    lengths: tuple[int, ...]
    rows: np.ndarray


@dataclass(frozen=True, eq=False)
class AdoptStates:
    """An encoder has written hidden states into this rank's arena. `rows`: [sum of
    `lengths`] of it."""

    keys: tuple[str, ...]
    lengths: tuple[int, ...]
    rows: np.ndarray


@dataclass(frozen=True, eq=False)
class CollectStates:
    """Of a colocated replica: give all ranks this one's share of encoder batch number
    `batch`, take theirs, and put what is `wanted` of them into `rows` of the arena. If
    none are wanted, and the leader has no use for the batch (`whole`), drop the share.

    `keys`, `lengths`, `tokens`: as those of `SharedBatch`.
    """

    batch: int
    keys: tuple[str, ...]
    lengths: tuple[int, ...]
    tokens: tuple[int, ...]
    wanted: tuple[str, ...]
    rows: np.ndarray
    whole: bool = False


@dataclass(frozen=True)
class DropStates:
    """No request waits for the hidden states of these keys, which may not have come."""

    keys: tuple[str, ...]


@dataclass(frozen=True)
class Align:
    """Take part in the alignment of sequences that have ended."""

    sequences: tuple[AlignedSequence, ...]


RankCommand = Launch | PutStates | AdoptStates | CollectStates | DropStates | Align
Followers = Callable[[RankCommand], None]


def no_followers(command: RankCommand) -> None:
    raise AssertionError(f"a replica of one rank sent {type(command).__name__}")
