"""Whisper's log-mel spectrogram in torch, in batches, on whatever device the encoder has."""

import numpy as np
import torch
from torch import nn

from antiphon.families.audio_config import AudioConfig

MAX_FREQUENCY = 8000.0  # Hz; of the filters, whatever the sampling rate


class LogMel(nn.Module):
    """[windows, samples] float32 -> [windows, mel_bins, frames].

    Equals transformers' WhisperFeatureExtractor.
    """

    filters: torch.Tensor
    taper: torch.Tensor

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer(
            "filters", torch.from_numpy(_mel_filters(config)), persistent=False
        )  # [mel_bins, frequencies]
        self.register_buffer("taper", torch.hann_window(config.fft_size), persistent=False)

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        spectrum = torch.stft(
            samples, self.config.fft_size, self.config.hop, window=self.taper, return_complex=True
        )
        power = spectrum[..., :-1].abs().square()
        logs = (self.filters @ power).clamp(min=1e-10).log10()
        floor = logs.amax((1, 2), keepdim=True) - 8.0
        return (torch.maximum(logs, floor) + 4.0) / 4.0


def _mel_filters(config: AudioConfig) -> np.ndarray:
    """Slaney's triangles of unit area on the mel scale, float32 [mel_bins, frequencies]."""
    from transformers.audio_utils import mel_filter_bank

    filters = mel_filter_bank(
        num_frequency_bins=config.fft_size // 2 + 1,
        num_mel_filters=config.mel_bins,
        min_frequency=0.0,
        max_frequency=MAX_FREQUENCY,
        sampling_rate=config.sampling_rate,
        norm="slaney",
        mel_scale="slaney",
    )
    return np.ascontiguousarray(filters.T, np.float32)
