"""The waveform frontend: samples in, of any length; the encoder's own convolutions make tokens of
them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from antiphon.config.options import EngineConfig
from antiphon.encoder.frontends.audio import kept_rows
from antiphon.encoder.frontends.copies import CopiesAside
from antiphon.encoder.frontends.interface import Frontend, GraphShape
from antiphon.encoder.models.interface import EncoderModel, Layout
from antiphon.encoder.models.moonshine import MoonshineEncoder
from antiphon.families.audio_config import WaveformConfig
from antiphon.families.checkpoint import ModelConfig
from antiphon.runtime.device import Target, to_device

WARM_UP_SAMPLES = 4000


@dataclass(frozen=True)
class WaveformBatch:
    """Clips, padded with silence to the longest, on the device."""

    samples: torch.Tensor  # [clips, samples] float32
    frames: torch.Tensor  # [clips] int64: what the first convolution makes of each clip
    lengths: np.ndarray  # [clips] int, in tokens


class WaveformFrontend(Frontend[WaveformBatch, GraphShape]):
    graph_lengths: Literal["same", "any"] = "same"

    def __init__(
        self, config: ModelConfig, encoder: EncoderModel, target: Target, options: EngineConfig
    ) -> None:
        assert isinstance(encoder, MoonshineEncoder)
        assert isinstance(config.audio, WaveformConfig)
        self._encoder, self._target, self._audio = encoder, target, config.audio
        self._copies = CopiesAside(target.device)

    def lengths(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        longest = max(map(len, inputs))
        if longest > self._audio.window:
            raise ValueError(f"{longest} samples; the longest clip has {self._audio.window}")
        return np.array([self._audio.tokens_of(len(clip)) for clip in inputs])

    def pack(self, inputs: Sequence[np.ndarray]) -> WaveformBatch:
        """`inputs`: float32 samples [samples] at the model's rate. Clips that are shorter than one
        token get silence behind them."""
        lengths = self.lengths(inputs)
        longest = max(self._audio.shortest, *map(len, inputs))
        samples = self._copies.host(len(inputs), longest)
        for row, clip in zip(samples.numpy(), inputs, strict=True):
            row[: len(clip)] = clip
            row[len(clip) :] = 0.0
        frames = np.array([self._audio.first_frames(len(clip)) for clip in inputs])
        on_device = self._copies.to_device(samples)
        return WaveformBatch(on_device, to_device(frames, self._target.device), lengths)

    def layout(self, batch: WaveformBatch) -> Layout:
        return self._encoder.layout(batch.lengths)

    def embed(self, batch: WaveformBatch, layout: Any) -> torch.Tensor:
        embedded = self._encoder.embed(batch.samples.to(self._target.dtype), batch.frames)
        tokens = embedded.flatten(0, 1)
        rows = kept_rows(batch.lengths, embedded.shape[1])
        return tokens if rows is None else tokens[to_device(rows, self._target.device)]

    def graph_inputs(self, max_batch_tokens: int) -> str:
        return "clips of any length have none"

    def warm_up_batches(self) -> list[WaveformBatch]:
        """Clips of equal lengths, and of different ones."""
        clip = np.zeros(WARM_UP_SAMPLES, np.float32)
        return [self.pack([clip]), self.pack([clip, clip[: WARM_UP_SAMPLES // 2]])]
