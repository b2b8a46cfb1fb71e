"""Inputs in prompts whose tokens have a frame, a row and a column."""

from typing import NamedTuple

from antiphon.scheduler.request import Request


class PlacedGrid(NamedTuple):
    """An input in a prompt: its first token there, and the frames, rows and columns
    that its hidden states are of. `step`: positions from a frame to the next."""

    position: int
    frames: int
    rows: int
    columns: int
    step: float = 1.0


def grids_of(request: Request) -> tuple[PlacedGrid, ...]:
    """Of the inputs in its prompt that have one."""
    return tuple(
        PlacedGrid(media.position, *media.grid)
        for media in request.inputs
        if media.position is not None and media.grid is not None
    )
