"""Batches of training windows: their sound with noise, log-mel features and tokens."""

import random
from collections.abc import Sequence

import corpus
import numpy as np
import torch
from labels import NOWHERE, Labels
from windows import WINDOW, Window


class Sounds:
    """The sound of windows, with gain and noise, on `device`."""

    def __init__(self, speech: list[corpus.Speech], device: str) -> None:
        self.device = device
        self.lengths = [len(one.samples) for one in speech]
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)[:-1]]).tolist()
        self.audio = torch.from_numpy(np.concatenate([one.samples for one in speech])).to(device)

    def of(self, windows: Sequence[Window]) -> torch.Tensor:
        """[windows, WINDOW] float32 samples."""
        samples = torch.zeros(len(windows), WINDOW, device=self.device)
        ends = torch.tensor([window.end for window in windows], device=self.device)
        for row, window in enumerate(windows):
            for item in window.placed:
                first = max(item.start, 0)
                last = max(first, min(item.start + self.lengths[item.index], WINDOW))
                origin = self.starts[item.index] - item.start
                spoken = self.audio[origin + first : origin + last].float() / 32768
                samples[row, first:last] += spoken
        disturbed = self._disturbed(samples)
        return disturbed * (torch.arange(WINDOW, device=self.device) < ends[:, None])

    def _disturbed(self, samples: torch.Tensor) -> torch.Tensor:
        """Adds a random gain and, in most rows, white or smooth noise 3 to 45 dB below speech."""
        size, device = len(samples), self.device
        samples = samples * 10 ** (torch.empty(size, 1, device=device).uniform_(-1.2, 0.1))
        loudness = samples.pow(2).mean(1, keepdim=True).sqrt().clamp_min(0.003)
        noise = torch.randn_like(samples)
        is_smooth = torch.rand(size, 1, device=device) < 0.5
        smooth = torch.nn.functional.avg_pool1d(noise[:, None], 9, 1, 4)[:, 0] * 3
        noise = torch.where(is_smooth, smooth, noise)
        level = 10 ** (-torch.empty(size, 1, device=device).uniform_(3, 45) / 20)
        is_noisy = torch.rand(size, 1, device=device) < 0.85
        return (samples + noise * loudness * level * is_noisy).clamp(-1, 1)


def log_mel(samples: torch.Tensor, filters: torch.Tensor) -> torch.Tensor:
    """[batch, n] -> [batch, mels, frames], as WhisperFeatureExtractor computes it."""
    window = torch.hann_window(400, device=samples.device)
    power = torch.stft(samples, 400, 160, window=window, return_complex=True)[..., :-1].abs() ** 2
    logs = torch.clamp(filters.T @ power, min=1e-10).log10()
    return (torch.maximum(logs, logs.amax((1, 2), keepdim=True) - 8.0) + 4.0) / 4.0


def padded(
    labels: Sequence[Labels], filler: int, device: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Decoder inputs and targets [batch, longest], and spans [batch, longest, 2].

    `filler`: an input that is never learned from.
    """
    size, longest = len(labels), max(len(row.inputs) for row in labels)
    inputs = torch.full((size, longest), filler)
    targets = torch.full((size, longest), -100)
    spans = torch.full((size, longest, 2), NOWHERE[0])
    for row, one in enumerate(labels):
        inputs[row, : len(one.inputs)] = torch.tensor(one.inputs)
        targets[row, : len(one.targets)] = torch.tensor(one.targets)
        spans[row, : len(one.spans)] = torch.tensor(one.spans)
    return inputs.to(device), targets.to(device), spans.to(device)


def by_length(lengths: list[int], size: int, rng: random.Random) -> list[list[int]]:
    """Numbers of `lengths` in batches of `size` of similar ones, all in random order."""
    order = sorted(range(len(lengths)), key=lambda number: (lengths[number], rng.random()))
    batches = [order[first : first + size] for first in range(0, len(order), size)]
    rng.shuffle(batches)
    return batches
