"""CUDA graphs of an audio encoder, one for each number of windows: all windows are equally long."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from antiphon.layers.graphs import GraphCapture

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    plan: Any  # kept alive: the graph reads its tensors


class EncoderGraphs:
    """`forward` turns spectrograms into hidden states; `plan` makes the attention's plan for a number of windows."""

    def __init__(
        self,
        forward: Callable[[torch.Tensor, Any], torch.Tensor],
        plan: Callable[[int], Any],
        features: torch.Tensor,
        hidden: torch.Tensor,
    ) -> None:
        """`features` [most windows, mel_bins, frames] is what the graphs read, `hidden` [most windows, tokens, hidden] what they
        write; their content does not matter here."""
        self.features, self.hidden = features, hidden
        self._captured: dict[int, _Captured] = {}
        capture = GraphCapture(features.device)
        for windows in range(len(features), 0, -1):
            made = plan(windows)

            def work(windows: int = windows, made: Any = made) -> None:
                hidden[:windows].flatten(0, 1).copy_(forward(features[:windows], made))

            self._captured[windows] = _Captured(capture(work), made)
        self.report = capture.report
        logger.info("encoder: %s", self.report)

    def __contains__(self, windows: int) -> bool:
        return windows in self._captured

    def replay(self, features: torch.Tensor) -> torch.Tensor:
        """Hidden states of `features` [windows, mel_bins, frames]; a copy of their own."""
        windows = len(features)
        self.features[:windows].copy_(features)
        self._captured[windows].graph.replay()
        return self.hidden[:windows].flatten(0, 1).clone()
