"""What a step says of how the sequences of beam searches may go on, search by search."""

from dataclasses import dataclass, replace

import numpy as np

from antiphon.scheduler.beam_plan import BeamCandidates
from antiphon.scheduler.generated import TokenLogprobs
from antiphon.scheduler.plan import StepResult
from antiphon.scheduler.request import Request


@dataclass(frozen=True)
class StepCandidates:
    """What a step says of the running sequences of all searches."""

    result: StepResult
    candidates: BeamCandidates
    index_of_row: np.ndarray  # [rows of the plan] into the candidates

    @classmethod
    def of(cls, result: StepResult) -> "StepCandidates":
        candidates = result.beams
        assert candidates is not None
        index = np.full(len(result.tokens), -1)
        index[candidates.rows] = np.arange(len(candidates.rows))
        return cls(result, candidates, index)

    def of_rows(self, rows: np.ndarray) -> "GroupCandidates":
        index = self.index_of_row[rows]
        assert (index >= 0).all()
        return GroupCandidates(rows, self.result, self.candidates, index)


@dataclass(frozen=True)
class GroupCandidates:
    """What a step says of the running sequences of one group, [running, k] each; or of several
    groups with as many, [groups, running, k]."""

    rows: np.ndarray  # [running] of the plan
    result: StepResult
    candidates: BeamCandidates
    index: np.ndarray  # [running] into the candidates

    def of(self, which: np.ndarray | None) -> "GroupCandidates":
        """Of some of several groups; None: the same, as of several groups."""
        return replace(self, rows=self.rows[which], index=self.index[which])

    @property
    def ids(self) -> np.ndarray:
        ids: np.ndarray = self.candidates.ids[self.index]
        return ids

    @property
    def scores(self) -> np.ndarray:
        scores: np.ndarray = self.candidates.scores[self.index]
        return scores

    @property
    def logprobs(self) -> np.ndarray:
        logprobs: np.ndarray = self.candidates.logprobs[self.index]
        return logprobs

    def of_token(self, parent: int, column: int, request: Request) -> TokenLogprobs:
        """Log-probabilities of a candidate, and of as many likeliest tokens as `request` asks."""
        count, top = request.params.logprobs or 0, self.result.top
        others: tuple[list[int], list[float]] = ([], [])
        if top is not None:
            others = top.of_row(int(self.rows[parent]) * self.result.per_row, count)
        place = self.index[parent], column
        return TokenLogprobs(
            ids=[int(self.candidates.ids[place]), *others[0]],
            logprobs=[float(self.candidates.logprobs[place]), *others[1]],
            ranks=[int(self.candidates.ranks[place]), *range(1, len(others[0]) + 1)],
        )
