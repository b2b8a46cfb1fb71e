"""What few requests ask for while they run: a step spends time on it only if a running one does."""

from collections.abc import Sequence
from typing import Literal, get_args

from antiphon.scheduler.generated import Readout
from antiphon.scheduler.request import Request

Demand = Literal[
    "streams", "waits_for_host", "readouts", "inputs", "logprobs", "beams", "shares_prefixes"
]
DEMANDS: tuple[Demand, ...] = get_args(Demand)


def demands_of(request: Request) -> list[Demand]:
    """Of all those, what `request` asks for."""
    demands: list[Demand] = []
    if request.streams:
        demands.append("streams")
    if request.waits_for_host or request.rules.beams is not None:
        demands.append("waits_for_host")
    if request.readouts:
        demands.append("readouts")
    if request.placed:
        demands.append("inputs")
    if request.params.logprobs is not None:
        demands.append("logprobs")
    if request.rules.beams is not None:
        demands.append("beams")
    if request.cross is None:  # see `PrefixCache`
        demands.append("shares_prefixes")
    return demands


def first_readout(readouts: Sequence[Readout], start: int) -> int:
    """Tokens up to the first of `readouts` at `start` or behind it; 0 without any."""
    if not readouts:
        return 0
    ends = [readout.position + 1 for readout in readouts if readout.position >= start]
    return min(ends, default=0)
