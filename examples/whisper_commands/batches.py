"""Batches of training windows: their sound with noise, log-mel features and tokens."""

import random
from collections.abc import Iterator, Sequence

import corpus
import numpy as np
import torch
from labels import NOWHERE, Labeler, Labels
from torch.utils.data import IterableDataset, get_worker_info
from windows import WINDOW, Window, Windows

Padded = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Sounds:
    """The sound of windows, with gain and noise, on `device`."""

    def __init__(self, speech: list[corpus.Speech], device: str) -> None:
        self.device = device
        self.lengths = np.array([len(one.samples) for one in speech])
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.audio = torch.from_numpy(np.concatenate([one.samples for one in speech])).to(device)

    def of(self, windows: Sequence[Window]) -> torch.Tensor:
        """[windows, WINDOW] float32 samples."""
        ends = torch.tensor([window.end for window in windows], device=self.device)
        disturbed = self._disturbed(self._spoken(windows))
        return disturbed * (torch.arange(WINDOW, device=self.device) < ends[:, None])

    def _spoken(self, windows: Sequence[Window]) -> torch.Tensor:
        """Every utterance where it is placed, in one addition: thousands of small ones would take
        longer than a step of training."""
        samples = torch.zeros(len(windows) * WINDOW, device=self.device)
        placed = [
            (row, item.index, item.start) for row, w in enumerate(windows) for item in w.placed
        ]
        if placed:
            rows, indices, starts = np.array(placed).T
            first = np.maximum(starts, 0)
            last = np.clip(starts + self.lengths[indices], first, WINDOW)
            counts, origins = last - first, self.starts[indices] - starts + first
            edges = np.stack([counts, origins, rows * WINDOW + first, np.cumsum(counts) - counts])
            counts, origins, targets, before = torch.from_numpy(edges).to(self.device)
            which = torch.repeat_interleave(counts)
            within = torch.arange(len(which), device=self.device) - before[which]
            sound = self.audio[origins[which] + within].float() / 32768
            samples.index_add_(0, targets[which] + within, sound)
        return samples.view(len(windows), WINDOW)

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


def padded(labels: Sequence[Labels], filler: int) -> Padded:
    """Decoder inputs and targets [batch, longest], and spans [batch, longest, 2].

    `filler`: an input that is never learned from.
    """
    size, longest = len(labels), max(len(row.inputs) for row in labels)
    inputs = np.full((size, longest), filler)
    targets = np.full((size, longest), -100)
    spans = np.full((size, longest, 2), NOWHERE[0])
    for row, one in enumerate(labels):
        inputs[row, : len(one.inputs)] = one.inputs
        targets[row, : len(one.targets)] = one.targets
        spans[row, : len(one.spans)] = one.spans
    return torch.from_numpy(inputs), torch.from_numpy(targets), torch.from_numpy(spans)


class Drawn(IterableDataset[tuple[list[Window], Padded]]):
    """New windows and their labels, without end, in batches of `size`; each worker of a loader
    draws its own."""

    def __init__(self, windows: Windows, labeler: Labeler, size: int, filler: int) -> None:
        self.windows, self.labeler, self.size, self.filler = windows, labeler, size, filler

    def __iter__(self) -> Iterator[tuple[list[Window], Padded]]:
        worker = get_worker_info()
        number = 0 if worker is None else worker.id
        rng, self.windows.rng = random.Random(2 * number + 1), random.Random(2 * number + 2)
        while True:
            drawn = [self.windows.draw() for _ in range(self.size)]
            labels = [self.labeler.label(window, rng) for window in drawn]
            yield drawn, padded(labels, self.filler)


def by_length(lengths: list[int], size: int, rng: random.Random) -> list[list[int]]:
    """Numbers of `lengths` in batches of `size` of similar ones, all in random order."""
    order = sorted(range(len(lengths)), key=lambda number: (lengths[number], rng.random()))
    batches = [order[first : first + size] for first in range(0, len(order), size)]
    rng.shuffle(batches)
    return batches
