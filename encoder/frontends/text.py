"""The text frontend: token ids in, looked up in the encoder's embedding.

Its graphs are captured for numbers of tokens that batches are padded to. Padding belongs to no
sequence: attention leaves its rows alone, and nothing reads them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from antiphon.attention.interface import FullBatch
from antiphon.config.options import EngineConfig
from antiphon.encoder.frontends.graph_sizes import MAX_GRAPH_TOKENS, graph_sizes
from antiphon.encoder.frontends.interface import Frontend, GraphInputs
from antiphon.encoder.models.interface import EncoderModel, Layout, TextEncoder
from antiphon.families.checkpoint import ModelConfig
from antiphon.runtime.device import Target, to_device, together_to_device

WARM_UP_TOKENS = 16

# Padding up to here costs no time: launching a small model's kernels takes longer than they do.
FREE_PADDING_TOKENS = 1024
# Each sequence that a graph has room for costs a row of attention programs, even if it is empty.
TOKENS_PER_SEQUENCE = 64
MIN_SEQUENCES = 8


@dataclass(frozen=True)
class TextBatch:
    """Texts packed one after the other, on the host."""

    lengths: np.ndarray  # [texts] int
    ids: np.ndarray  # [tokens] int64
    positions: np.ndarray  # [tokens] int64


@dataclass(frozen=True)
class TextShape:
    tokens: int
    sequences: int  # at most

    @property
    def rows(self) -> int:
        return self.tokens


class TextFrontend(Frontend[TextBatch, TextShape]):
    graph_lengths: Literal["same", "any"] = "any"

    def __init__(
        self, config: ModelConfig, encoder: EncoderModel, target: Target, options: EngineConfig
    ) -> None:
        assert isinstance(encoder, TextEncoder)
        assert config.encoder is not None
        self._encoder, self._device = encoder, target.device
        self._vocab_size = config.encoder.vocab_size
        self._padding_id = config.encoder.padding_id
        self._max_len = config.max_encoder_len

    def lengths(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        for ids in inputs:  # on a GPU, looking up such an id would end the process
            if ids.min() < 0 or ids.max() >= self._vocab_size:
                raise ValueError(f"token ids must be within 0 and {self._vocab_size - 1}")
        return np.array([len(ids) for ids in inputs])

    def pack(self, inputs: Sequence[np.ndarray]) -> TextBatch:
        """`inputs`: int token ids [tokens] of each text."""
        return TextBatch(
            lengths=self.lengths(inputs),
            ids=np.concatenate(inputs).astype(np.int64),
            positions=np.concatenate([self._positions(ids) for ids in inputs]),
        )

    def _positions(self, ids: np.ndarray) -> np.ndarray:
        """[tokens] from 0.

        In some families the padding token takes no position of its own (see `TokenEmbedding`). No
        batch is ever padded here: such a token is part of the text itself.
        """
        if self._padding_id is None:
            return np.arange(len(ids))
        return np.maximum(np.cumsum(ids != self._padding_id) - 1, 0)

    def layout(self, batch: TextBatch) -> Layout:
        lengths = self._encoder.lengths(batch.lengths)
        if not self._encoder.turns_positions:
            return Layout(lengths)
        return self._encoder.layout(lengths, to_device(batch.positions, self._device))

    def embed(self, batch: TextBatch, layout: Layout | None = None) -> torch.Tensor:
        ids, positions = together_to_device([batch.ids, batch.positions], self._device)
        return self._encoder.embed(ids, positions)

    def graph_inputs(self, max_batch_tokens: int) -> "TextGraphInputs":
        shapes = text_shapes(min(max_batch_tokens, MAX_GRAPH_TOKENS))
        return TextGraphInputs(self._encoder, shapes, self._max_len, self._device)

    def warm_up_batches(self) -> list[TextBatch]:
        """Texts of equal lengths, and of different ones."""
        longest = min(WARM_UP_TOKENS, self._max_len)
        return [
            self.pack([np.zeros(length, np.int32) for length in lengths])
            for lengths in ((longest,), (1, longest))
        ]


class TextGraphInputs(GraphInputs[TextBatch, TextShape]):
    def __init__(
        self, encoder: TextEncoder, shapes: list[TextShape], max_len: int, device: torch.device
    ) -> None:
        """`shapes`: the smallest first. `max_len`: tokens of the longest text."""
        self.shapes = shapes[::-1]
        self._encoder, self._max_len, self._device = encoder, max_len, device
        largest = self.shapes[0]
        self._ids, self._positions = (
            torch.zeros(largest.tokens, dtype=torch.int64, device=device) for _ in range(2)
        )
        self._cu_seqlens = {  # of each of the model's sets of lengths
            name: torch.zeros(
                lengths.most_sequences(largest.tokens, largest.sequences) + 1,
                dtype=torch.int32,
                device=device,
            )
            for name, lengths in encoder.length_sets.items()
        }

    def choose(self, batch: TextBatch) -> TextShape | str:
        return choose_shape(batch.lengths, self.shapes)

    def attention_batches(self, shape: TextShape) -> dict[str, FullBatch]:
        batches = {}
        for name, lengths in self._encoder.length_sets.items():
            longest = lengths.longest(min(shape.tokens, self._max_len))
            sequences = lengths.most_sequences(shape.tokens, shape.sequences)
            cu_seqlens = self._cu_seqlens[name][: sequences + 1]
            batches[name] = FullBatch(np.full(sequences, longest), cu_seqlens, longest)
        return batches

    def embed(self, shape: TextShape) -> torch.Tensor:
        return self._encoder.embed(self._ids[: shape.tokens], self._positions[: shape.tokens])

    def layout(self, shape: TextShape) -> Layout | None:
        if not self._encoder.turns_positions:
            return None
        return self._encoder.layout({}, self._positions[: shape.tokens])

    def fill(self, shape: TextShape, batch: TextBatch) -> None:
        cu_seqlens = []
        for name, lengths in self._encoder.lengths(batch.lengths).items():
            most = self._encoder.length_sets[name].most_sequences(shape.tokens, shape.sequences)
            # Sequences that the batch lacks are empty ones, at the end.
            padded = np.full(most + 1, len(batch.ids), np.int32)
            padded[: len(lengths)] = np.cumsum(lengths) - lengths
            cu_seqlens.append(padded)
        buffers = (self._ids, self._positions, *self._cu_seqlens.values())
        arrays = together_to_device([batch.ids, batch.positions, *cu_seqlens], self._device)
        for buffer, array in zip(buffers, arrays, strict=True):
            buffer[: len(array)].copy_(array)


def text_shapes(max_tokens: int) -> list[TextShape]:
    """Up to `max_tokens`, the smallest first. Padding adds an eighth of the tokens, or 32."""
    return [
        TextShape(size, max(MIN_SEQUENCES, size // TOKENS_PER_SEQUENCE))
        for size in graph_sizes(max_tokens, 32)
    ]


def choose_shape(lengths: np.ndarray, shapes: list[TextShape]) -> TextShape | str:
    """The smallest of `shapes` that holds sequences of these `lengths`, or why none is used."""
    tokens, sequences = int(lengths.sum()), len(lengths)
    fitting = (shape for shape in shapes if shape.tokens >= tokens and shape.sequences >= sequences)
    smallest = min(fitting, key=lambda shape: shape.tokens, default=None)
    if smallest is None:
        return f"no graph holds {sequences} texts of {tokens} tokens"
    if smallest.tokens > max(FREE_PADDING_TOKENS, 2 * tokens):
        return (
            f"padding {tokens} tokens to {smallest.tokens}, for {sequences} texts, costs more than "
            "a graph saves"
        )
    return smallest
