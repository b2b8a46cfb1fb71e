"""What the runner needs of a frontend, whatever the kind of its input."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, Literal, Protocol, TypeVar

import numpy as np
import torch

from antiphon.attention.interface import FullBatch
from antiphon.encoder.models.interface import Layout


class EncoderBatch(Protocol):
    """Inputs of one forward."""

    @property
    def lengths(self) -> np.ndarray:
        """[inputs] int: the encoder tokens that each input becomes."""


class GraphShape(Protocol):
    """What a CUDA graph is captured for; hashable."""

    @property
    def tokens(self) -> int:
        """Embedded tokens that the layers read."""

    @property
    def rows(self) -> int:
        """Hidden states that come out behind the last layer."""


B = TypeVar("B", bound=EncoderBatch)
S = TypeVar("S", bound=GraphShape)


class GraphInputs(ABC, Generic[B, S]):
    """What graphs read: tensors that keep their addresses, refilled before each replay."""

    shapes: list[S]  # to capture, the largest first
    most_rows: int | None = None  # of a batch that is worth encoding at once; None: any number

    @abstractmethod
    def choose(self, batch: B) -> S | str:
        """The shape whose graph holds `batch`, or why none does."""

    @abstractmethod
    def attention_batches(self, shape: S) -> dict[str, FullBatch]:
        """What attention plans for when the graph of `shape` is captured: of each of the model's
        sets of lengths."""

    @abstractmethod
    def embed(self, shape: S) -> torch.Tensor:
        """Embedded tokens [shape.tokens, hidden]; captured."""

    def layout(self, shape: S) -> Any:
        """What the model asks of the layout, where it asks anything; captured."""
        return None

    @abstractmethod
    def fill(self, shape: S, batch: B) -> None:
        """Queues the copies after which the graph of `shape` reads `batch`."""

    def rows_of(self, batch: B) -> int:
        """How many of the rows that a graph has written are those of `batch`; they come first."""
        return int(batch.lengths.sum())


class Frontend(ABC, Generic[B, S]):
    """Turns raw arrays of one kind of input into embedded tokens."""

    # Graphs are replayed for batches whose sequences have the lengths of the capture, or any.
    graph_lengths: Literal["same", "any"]

    @abstractmethod
    def lengths(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """[inputs] int: the hidden states that each input becomes.

        Raises ValueError for an input that the model can't take.
        """

    @abstractmethod
    def pack(self, inputs: Sequence[np.ndarray]) -> B:
        """Packs inputs in their order. Raises as `lengths`."""

    @abstractmethod
    def layout(self, batch: B) -> Layout:
        """Where the tokens of `batch` lie."""

    @abstractmethod
    def embed(self, batch: B, layout: Any) -> torch.Tensor:
        """Embedded tokens [sum of lengths, hidden] on the device. `layout`: of the batch."""

    def assembled(self, batch: B, rows: torch.Tensor) -> torch.Tensor:
        """What comes out for `batch`, of the `rows` [rows, output size] that its model or a graph
        gives; a tensor of its own. Not captured."""
        return rows

    @abstractmethod
    def graph_inputs(self, max_batch_tokens: int) -> GraphInputs[B, S] | str:
        """For batches of up to about `max_batch_tokens` encoder tokens; or why there are none."""

    @abstractmethod
    def warm_up_batches(self) -> list[B]:
        """Small batches that together load, compile and allocate what a first request needs."""
