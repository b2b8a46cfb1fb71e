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
    hidden: torch.Tensor  # [windows * tokens, hidden]
    plan: Any  # kept alive: the graph reads its tensors


class EncoderGraphs:
    """`forward` turns spectrograms into hidden states; `plan` makes the attention's plan for a number of windows."""

    def __init__(
        self,
        forward: Callable[[torch.Tensor, Any], torch.Tensor],
        plan: Callable[[int], Any],
        features: torch.Tensor,
    ) -> None:
        """`features` [most windows, mel_bins, frames] is what the graphs read; its content does not matter here."""
        self.features = features
        self._captured: dict[int, _Captured] = {}
        capture = GraphCapture(features.device)
        for windows in range(len(features), 0, -1):
            made = plan(windows)
            hidden = torch.empty_like(forward(features[:windows], made))

            def work(windows: int = windows, made: Any = made, hidden: torch.Tensor = hidden) -> None:
                hidden.copy_(forward(features[:windows], made))

            self._captured[windows] = _Captured(capture(work), hidden, made)
        self.report = capture.report
        logger.info("encoder: %s", self.report)

    def __contains__(self, windows: int) -> bool:
        return windows in self._captured

    def replay(self, features: torch.Tensor) -> torch.Tensor:
        """Hidden states of `features` [windows, mel_bins, frames]; a copy of their own."""
        captured = self._captured[len(features)]
        self.features[: len(features)].copy_(features)
        captured.graph.replay()
        return captured.hidden.clone()
