"""Positions of tokens by frame, row and column (multimodal positions of Qwen2-VL)."""

from collections.abc import Sequence

import numpy as np
import torch

from antiphon.runtime.device import to_device, together_to_device
from antiphon.scheduler.grids import PlacedGrid
from antiphon.scheduler.plan import Admission, Fork


class GridPositions:
    """`table` [3, slots, columns] int64: frame, row and column of every token of each
    slot's sequence, those that are still to come included.

    Tokens of text have their place in all three. An image begins at the next place;
    what follows it begins behind its rows and columns. Frames of a video are as far
    apart as they are in time, and may reach further than the text behind them begins:
    as transformers 5 has it (before, and in other engines, text began behind the last
    frame). What is generated goes on behind the last token of the prompt.
    """

    def __init__(self, num_slots: int, columns: int, device: torch.device) -> None:
        self._indices = torch.arange(columns, device=device)
        self.table = self._indices.repeat(3, num_slots, 1)

    def admit(self, admissions: Sequence[Admission]) -> None:
        """Overwrites the positions of the admitted slots, in one copy to the device for those of
        text, and one for the others."""
        plain = np.array([a.slot for a in admissions if not a.grids], np.int64)
        if len(plain):
            self.table[:, to_device(plain, self.table.device)] = self._indices
        if gridded := [admission for admission in admissions if admission.grids]:
            self._admit_gridded(gridded)

    def _admit_gridded(self, admissions: Sequence[Admission]) -> None:
        slots = np.array([admission.slot for admission in admissions])
        counts = np.array([admission.prompt_len for admission in admissions])
        prompts = np.zeros((3, len(slots), counts.max()), np.int64)
        shifts = np.zeros((3, len(slots), 1), np.int64)  # of what is behind a prompt
        for i, (admission, count) in enumerate(zip(admissions, counts.tolist(), strict=True)):
            placed = grid_positions(count, admission.grids)
            prompts[:, i, :count] = placed
            shifts[:, i] = placed[:, -1:] + 1 - count
        index, ends, of_prompts, behind = together_to_device(
            [slots, counts[:, None], prompts, shifts], self.table.device
        )
        longest = prompts.shape[2]
        positions = self._indices + behind
        in_prompt = self._indices[:longest] < ends
        positions[..., :longest] = torch.where(in_prompt, of_prompts, positions[..., :longest])
        # Behind a video at the very end of a prompt, there may be too few positions.
        self.table[:, index] = positions.clamp_(max=self.table.shape[2] - 2)

    def fork(self, forks: Sequence[Fork]) -> None:
        """Forks share their source's prompt. In order: a fork may be forked again."""
        for fork in forks:
            self.table[:, fork.slot] = self.table[:, fork.source]


def grid_positions(count: int, grids: Sequence[PlacedGrid]) -> np.ndarray:
    """Of the `count` tokens of a prompt, [3, count] int64."""
    positions = np.zeros((3, count), np.int64)
    done, place = 0, 0
    for grid in sorted(grids):
        text = grid.position - done
        positions[:, done : grid.position] = place + np.arange(text)
        place += text
        done = grid.position + grid.frames * grid.rows * grid.columns
        axes = np.indices((grid.frames, grid.rows, grid.columns)).reshape(3, -1)
        axes[0] = axes[0].astype(np.float32) * np.float32(grid.step)  # rounded as transformers does
        positions[:, grid.position : done] = place + axes
        place += max(grid.rows, grid.columns)
    positions[:, done:] = place + np.arange(count - done)
    return positions
