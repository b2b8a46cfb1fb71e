"""What few requests ask for while they run: a step spends time on it only if a running one does."""

from typing import Literal

from antiphon.scheduler.request import Request

Demand = Literal["streams", "waits_for_host", "readouts", "inputs", "logprobs"]


def demands_of(request: Request) -> list[Demand]:
    """Of all those, what `request` asks for."""
    demands: list[Demand] = []
    if request.streams:
        demands.append("streams")
    if request.waits_for_host:
        demands.append("waits_for_host")
    if request.readouts:
        demands.append("readouts")
    if request.placed:
        demands.append("inputs")
    if request.params.logprobs is not None:
        demands.append("logprobs")
    return demands
