"""A stand-in for the capture of CUDA graphs where there is no GPU."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch

from antiphon.runtime.graphs import Captured, Work
from antiphon.runtime.ranks import Ranks


class Rerun:
    """As `GraphCapture`, but a replay does the work again, on what its tensors hold by then."""

    report = ""

    def __init__(
        self, device: torch.device, model: torch.nn.Module, ranks: Ranks | None = None
    ) -> None: ...

    def capture_all(
        self, shapes: Sequence[Any], prepare: Callable[[Any], tuple[Any, Work]]
    ) -> dict[Any, Any]:
        captured = {}
        for shape in shapes:
            metadata, work = prepare(shape)
            work()
            captured[shape] = Captured(SimpleNamespace(replay=work), metadata)  # type: ignore[arg-type]
        return captured
