"""Where the sequences of beam searches go on: in which slots, and behind which others."""

from collections.abc import Sequence, Sized
from dataclasses import dataclass, field

import numpy as np

from antiphon.scheduler.beam_candidates import GroupCandidates
from antiphon.scheduler.beam_search import BeamSearch, Survivors
from antiphon.scheduler.generated import TokenLogprobs
from antiphon.scheduler.request import Request


@dataclass(eq=False)
class BeamGroup:
    """`slots` [size]: those of the running sequences first, best first; then the reserved ones.
    `logprobs`: of the running sequences, where the request asks for them."""

    request: Request
    slots: np.ndarray
    search: BeamSearch
    logprobs: list[list[TokenLogprobs]] = field(default_factory=lambda: [[]])

    @property
    def num_running(self) -> int:
        return len(self.search.totals)


@dataclass(frozen=True)
class Branches:
    """How the sequences of `groups` that are alike go on: [groups, n] in `slots` behind those in
    `sources`, each with one more token; and the slots [groups, m] that are `idle` then."""

    groups: Sequence[BeamGroup]
    slots: np.ndarray
    sources: np.ndarray
    idle: np.ndarray
    token_ids: np.ndarray  # [groups, n]
    logprobs: np.ndarray  # [groups, n] of these tokens

    @classmethod
    def of(
        cls, groups: Sequence[BeamGroup], step: GroupCandidates, survivors: Survivors
    ) -> "Branches":
        """`step` and `survivors`, [groups, n], are of `groups`."""
        parents, columns = survivors
        before, number = np.stack([group.slots for group in groups]), _numbers(groups)
        slots, idle = _placed(before, parents)
        place = number, parents, columns
        sources = before[number, parents]
        return cls(groups, slots, sources, idle, step.ids[place], step.logprobs[place])

    @property
    def parts(self) -> tuple[np.ndarray, ...]:
        """Of all groups behind each other."""
        parts = self.slots, self.sources, self.idle, self.token_ids, self.logprobs
        return tuple(part.ravel() for part in parts)

    def enter(self) -> None:
        """The groups have these slots from now on."""
        slots = np.concatenate([self.slots, self.idle], axis=1)
        for group, own in zip(self.groups, slots, strict=True):
            group.slots = own


def _numbers(groups: Sized) -> np.ndarray:
    """Of `groups`, [groups, 1]."""
    return np.arange(len(groups))[:, None]


def _placed(slots: np.ndarray, parents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The slots [groups, n] of sequences that go on behind those number `parents` [groups, n] of
    `slots` [groups, size]: the first one behind each stays where that one is. Returns also the
    slots that are left."""
    groups = _numbers(slots)
    is_same = parents[:, :, None] == parents[:, None, :]
    is_further = np.tril(is_same, -1).any(2)  # another one stays there
    is_left = np.ones(slots.shape, bool)
    is_left[groups, parents] = False
    left = slots[groups, np.argsort(~is_left, axis=1, kind="stable")]  # those left, in their order
    place = np.where(is_further, is_further.cumsum(1) - 1, 0)
    placed = np.where(is_further, left[groups, place], slots[groups, parents])
    # As many as the sequences are fewer than slots, behind those that further ones take.
    count = slots.shape[1] - parents.shape[1]
    idle = left[groups, is_further.sum(1, keepdims=True) + np.arange(count)]
    return placed, idle
