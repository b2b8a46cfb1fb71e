"""The audio frontend: samples in; their spectrogram, convolved, is the sequence of embedded tokens.

Its graphs are captured for numbers of full windows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from antiphon.attention.interface import FullBatch
from antiphon.config.options import EngineConfig
from antiphon.encoder.frontends.copies import CopiesAside
from antiphon.encoder.frontends.interface import Frontend, GraphInputs
from antiphon.encoder.frontends.log_mel import LogMel
from antiphon.encoder.models.interface import AudioEncoder, EncoderModel, Layout
from antiphon.families.audio_config import AudioConfig
from antiphon.families.checkpoint import ModelConfig
from antiphon.runtime.device import Target, to_device

WARM_UP_TOKENS = 16
# Tokens of silence behind a short window, so that convolutions end as in a full window.
MARGIN = 2


@dataclass(frozen=True)
class AudioBatch:
    """Clips in equally long windows of samples, padded with silence, on the device.

    `window_tokens` are computed for each clip, of which the first `lengths` are kept.
    """

    samples: torch.Tensor  # [clips, samples] float32
    lengths: np.ndarray  # [clips] int, in tokens
    window_tokens: int
    frames: torch.Tensor | None  # [clips, 1, 1], behind which features are 0; None: nowhere


@dataclass(frozen=True)
class WindowShape:
    """Full windows."""

    windows: int
    tokens: int  # of all of them

    @property
    def rows(self) -> int:
        return self.tokens


class AudioFrontend(Frontend[AudioBatch, WindowShape]):
    graph_lengths: Literal["same", "any"] = "same"

    def __init__(
        self, config: ModelConfig, encoder: EncoderModel, target: Target, options: EngineConfig
    ) -> None:
        assert isinstance(encoder, AudioEncoder)
        assert config.audio is not None
        self._encoder, self._target, self._audio = encoder, target, config.audio
        self._shortens = options.encoder.window == "auto"
        self._ends_in_zeros = options.encoder.window == "zeros"
        self._log_mel = LogMel(config.audio).to(target.device)
        self._copies = CopiesAside(target.device)

    def lengths(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        for clip in inputs:
            if len(clip) > self._audio.window:
                raise ValueError(f"{len(clip)} samples where a window has {self._audio.window}")
        if self._shortens:
            return np.array([self._audio.tokens_of(len(clip)) for clip in inputs])
        return np.full(len(inputs), self._audio.tokens)

    def pack(self, inputs: Sequence[np.ndarray]) -> AudioBatch:
        """`inputs`: float32 samples [samples] at the model's rate, at most one window each."""
        lengths = self.lengths(inputs)
        if (lengths < self._audio.tokens).any():
            return self._short_windows(inputs, lengths)
        return self._batch(inputs, self._audio.window, lengths, self._audio.tokens)

    def _short_windows(self, inputs: Sequence[np.ndarray], lengths: np.ndarray) -> AudioBatch:
        """Each clip attends to a window of its own length, not to all the silence of a full one."""
        tokens = min(int(lengths.max()) + MARGIN, self._audio.tokens)
        return self._batch(inputs, 2 * (tokens + MARGIN) * self._audio.hop, lengths, tokens)

    def _batch(
        self, inputs: Sequence[np.ndarray], size: int, lengths: np.ndarray, tokens: int
    ) -> AudioBatch:
        """`size`: samples of each window."""
        windows = self._copies.host(len(inputs), size)
        for row, clip in zip(windows.numpy(), inputs, strict=True):
            row[: len(clip)] = clip
            row[len(clip) :] = 0.0
        samples = self._copies.to_device(windows)
        if not self._ends_in_zeros:
            return AudioBatch(samples, lengths, tokens, None)
        frames = self._copies.host(len(inputs), 1, 1)
        frames[:, 0, 0] = torch.tensor([len(clip) // self._audio.hop for clip in inputs])
        return AudioBatch(samples, lengths, tokens, self._copies.to_device(frames))

    def layout(self, batch: AudioBatch) -> Layout:
        return Layout(self._encoder.lengths(batch.lengths))

    def embed(self, batch: AudioBatch, layout: Layout | None = None) -> torch.Tensor:
        features = self._log_mel(batch.samples)[..., : 2 * batch.window_tokens]
        if batch.frames is not None:
            behind = torch.arange(features.shape[-1], device=features.device) >= batch.frames
            features = features.masked_fill(behind, 0.0)
        features = features.to(self._target.dtype)
        rows = kept_rows(batch.lengths, batch.window_tokens)
        if rows is None:
            return self._encoder.embed(features).flatten(0, 1)
        on_device = to_device(rows, self._target.device)
        return self._encoder.embed(features).flatten(0, 1)[on_device]

    def graph_inputs(self, max_batch_tokens: int) -> "WindowGraphInputs":
        windows = max(1, max_batch_tokens // self._audio.tokens)
        samples = torch.zeros(windows, self._audio.window, device=self._target.device)
        frames = torch.zeros_like(samples[:, :1, None]) if self._ends_in_zeros else None
        return WindowGraphInputs(self, self._encoder, self._audio, samples, frames)

    def warm_up_batches(self) -> list[AudioBatch]:
        if self._target.device.type == "cuda":
            return [self.pack([np.zeros(self._audio.hop, np.float32)])]
        # On a CPU, where a full window of a large model takes a second, a window as short as this.
        tokens = min(WARM_UP_TOKENS, self._audio.tokens)
        clip, lengths = np.zeros(2 * tokens * self._audio.hop, np.float32), np.array([tokens])
        batches = [self._batch([clip], len(clip), lengths, tokens)]
        if self._shortens:
            batches.append(self._short_windows([clip], lengths))
        return batches


class WindowGraphInputs(GraphInputs[AudioBatch, WindowShape]):
    def __init__(
        self,
        frontend: AudioFrontend,
        encoder: EncoderModel,
        audio: AudioConfig,
        samples: torch.Tensor,
        frames: torch.Tensor | None,
    ) -> None:
        """`samples` [most windows, samples] and `frames` [most windows, 1, 1], as those of
        `AudioBatch`: what the graphs read."""
        self._frontend, self._encoder = frontend, encoder
        self._audio, self._samples, self._frames = audio, samples, frames
        counts = range(len(samples), 0, -1)
        self.shapes = [WindowShape(count, count * audio.tokens) for count in counts]

    def choose(self, batch: AudioBatch) -> WindowShape | str:
        windows = len(batch.lengths)
        if not (batch.lengths == self._audio.tokens).all():
            return "short windows have no graphs"
        if windows > len(self._samples):
            return f"{windows} windows are more than the largest graph's {len(self._samples)}"
        return WindowShape(windows, windows * self._audio.tokens)

    def attention_batches(self, shape: WindowShape) -> dict[str, FullBatch]:
        sets = self._encoder.lengths(np.full(shape.windows, self._audio.tokens))
        device = self._samples.device
        return {name: FullBatch.of(lengths, device) for name, lengths in sets.items()}

    def embed(self, shape: WindowShape) -> torch.Tensor:
        lengths = np.full(shape.windows, self._audio.tokens)
        samples = self._samples[: shape.windows]
        frames = None if self._frames is None else self._frames[: shape.windows]
        return self._frontend.embed(AudioBatch(samples, lengths, self._audio.tokens, frames))

    def fill(self, shape: WindowShape, batch: AudioBatch) -> None:
        self._samples[: shape.windows].copy_(batch.samples)
        if self._frames is not None and batch.frames is not None:
            self._frames[: shape.windows].copy_(batch.frames)


def kept_rows(lengths: np.ndarray, window_tokens: int) -> np.ndarray | None:
    """Rows of the first `lengths` tokens of each window, in packed windows of `window_tokens`.

    [sum of lengths] int; None for all rows.
    """
    if (lengths == window_tokens).all():
        return None
    return np.flatnonzero(np.arange(window_tokens)[None] < lengths[:, None])
