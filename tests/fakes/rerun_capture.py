"""A stand-in for the capture of CUDA graphs where there is no GPU."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch

from antiphon.runtime.graphs import Captured, Work, only_typical_layers
from antiphon.runtime.ranks import Ranks


class Rerun:
    """As `GraphCapture`, but a replay does the work again, on what its tensors hold by then."""

    report = ""

    def __init__(
        self,
        device: torch.device,
        model: torch.nn.Module,
        ranks: Ranks | None = None,
        typical_layers: int = 2,
    ) -> None:
        self.model, self.typical_layers = model, typical_layers

    def capture_all(
        self, shapes: Sequence[Any], prepare: Callable[[Any], tuple[Any, Work]]
    ) -> dict[Any, Any]:
        captured = {}
        with only_typical_layers(self.model, self.typical_layers):
            for shape in shapes:
                prepare(shape)[1]()  # as while kernels are compiled
        for shape in shapes:
            metadata, work = prepare(shape)
            work()
            captured[shape] = Captured(SimpleNamespace(replay=work), metadata)  # type: ignore[arg-type]
        return captured
