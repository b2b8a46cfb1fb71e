"""Runs an encoder: a batch of token ids or clips in, packed hidden states out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from antiphon.attention.interface import FullBatch
from antiphon.attention.selection import select
from antiphon.attention.specs import encoder_specs
from antiphon.config.families import BartHalf
from antiphon.config.model import ModelConfig
from antiphon.config.options import EngineConfig
from antiphon.encoder.models import build
from antiphon.inputs.features import AudioConfig, LogMel
from antiphon.layers.device import Target
from antiphon.layers.weights import Checkpoint, load_weights


@dataclass(frozen=True)
class Encoded:
    """`hidden` [sum of lengths, hidden] of a batch, packed in the order of its inputs."""

    lengths: list[int]
    hidden: torch.Tensor


class EncoderRunner:
    """Holds the encoder half of a checkpoint. Inputs are token ids (text) or samples at the model's rate (audio)."""

    def __init__(self, model: ModelConfig, config: EngineConfig) -> None:
        half = model.encoder
        self.target = Target.resolve(config.model, model.raw)
        (self.attention,) = select("encoder", config.encoder.encoder_attention_backend, encoder_specs(half, self.target))
        self.model = self.target.build(lambda: build(half))
        load_weights(self.model, Checkpoint(model.path), self.model.checkpoint_names)
        self.audio: AudioConfig | None = None
        if isinstance(half, BartHalf) and half.structure == "whisper":
            self.audio = AudioConfig.load(model.path, half.mel_bins, half.max_positions)
            self.log_mel = LogMel(self.audio).to(self.target.device)

    @torch.inference_mode()
    def encode(self, inputs: Sequence[np.ndarray]) -> Encoded:
        """One packed forward of all `inputs`: int token ids [tokens] or float32 samples [samples], at most one window."""
        return self._encode_audio(inputs) if self.audio is not None else self._encode_text(inputs)

    def _encode_text(self, inputs: Sequence[np.ndarray]) -> Encoded:
        lengths = np.array([len(ids) for ids in inputs])
        positions = np.concatenate([np.arange(length) for length in lengths])
        plan = self.attention.plan(FullBatch.of(lengths, self.target.device))
        ids = self._tensor(np.concatenate(inputs).astype(np.int64))
        return Encoded(lengths.tolist(), self.model(ids, self._tensor(positions), self.attention, plan))

    def _encode_audio(self, inputs: Sequence[np.ndarray]) -> Encoded:
        assert self.audio is not None
        samples = np.zeros((len(inputs), self.audio.window), np.float32)
        for row, clip in zip(samples, inputs, strict=True):
            row[: len(clip)] = clip
        features = self.log_mel(self._tensor(samples)).to(self.target.dtype)
        length = features.shape[-1] // 2
        plan = self.attention.plan(FullBatch.of(np.full(len(inputs), length), self.target.device))
        return Encoded([length] * len(inputs), self.model(features, self.attention, plan))

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.target.device)
