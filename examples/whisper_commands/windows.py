"""Random training windows for the small Whisper: samples and labels."""

import random
from dataclasses import dataclass
from pathlib import Path

import corpus
import numpy as np
import torch
from checkpoint import END, LANGUAGES, START, TICKS_PER_SECOND, TIMESTAMPS, WINDOW_SECONDS
from tokenizers import Tokenizer, models, pre_tokenizers

RATE = 16_000
WINDOW = RATE * WINDOW_SECONDS
MAX_LABELS = 95  # the decoder has 96 positions; the first one holds the start token


@dataclass(frozen=True)
class Placed:
    """An utterance in a window, by index and first sample."""

    index: int
    start: int


class Batches:
    """Windows of one or more utterances at random places, with gain and noise.

    Labels are in Whisper's token format.
    """

    def __init__(
        self,
        folder: Path,
        spoken: list[corpus.Utterance],
        audio: list[np.ndarray],
        ids: dict[str, int],
        device: str,
    ) -> None:
        """`audio`: int16 samples [n] at RATE of each of `spoken`. `ids`: of all tokens."""
        self.spoken, self.ids, self.device = spoken, ids, device
        self.lengths = np.array([len(samples) for samples in audio])
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)[:-1]])
        self.audio = torch.from_numpy(np.concatenate(audio)).to(device)
        self.rng = random.Random(1)
        self.by_language = {
            code: [i for i, u in enumerate(spoken) if u.language == code] for code in LANGUAGES
        }
        vocabulary, merges = str(folder / "vocab.json"), str(folder / "merges.txt")
        bpe = Tokenizer(models.BPE.from_file(vocabulary, merges))
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        texts = sorted({text for u in spoken for text in (u.text, u.english)})
        self.encoded = {text: bpe.encode(" " + text).ids for text in texts}

    def window(self) -> tuple[list[Placed], list[int]]:
        """Utterances of one window, and the label tokens after the start token."""
        ids, rng = self.ids, self.rng
        if rng.random() < 0.03:
            return [], [ids["<|nospeech|>"], ids[END]]
        language = rng.choices(LANGUAGES, [0.6, 0.4])[0]
        placed = self._place(language)
        translate = rng.random() < (0.35 if language == "de" else 0.05)
        timestamps = rng.random() < 0.5
        labels = [ids[f"<|{language}|>"], ids["<|translate|>" if translate else "<|transcribe|>"]]
        labels += [] if timestamps else [ids["<|notimestamps|>"]]
        for item in placed:
            spoken = self.spoken[item.index]
            text = self.encoded[spoken.english if translate else spoken.text]
            if timestamps:
                first = self._timestamp(item.start)
                last = self._timestamp(item.start + int(self.lengths[item.index]))
                text = [first, *text, last]
            labels += text
        return placed, [*labels, ids[END]][:MAX_LABELS]

    def _place(self, language: str) -> list[Placed]:
        """Up to six utterances, one after the other with pauses, as far as the window goes."""
        rng = self.rng
        placed: list[Placed] = []
        position = int(rng.choice([0.0, rng.random() * 0.5, rng.random() * 3]) * RATE)
        for _ in range(rng.choices([1, 2, 6], [0.45, 0.2, 0.35])[0]):
            index = rng.choice(self.by_language[language])
            length = int(self.lengths[index])
            if position + length > WINDOW:
                position = WINDOW if placed else rng.randrange(max(1, WINDOW - length))
            if position + length > WINDOW:
                break
            placed.append(Placed(index, position))
            position += length + int((0.25 + rng.random()) * RATE)
        return placed

    def _timestamp(self, sample: int) -> int:
        tick = round(sample / RATE * TICKS_PER_SECOND)
        return self.ids[TIMESTAMPS[min(tick, len(TIMESTAMPS) - 1)]]

    def batch(self, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Samples [size, WINDOW] float32, decoder inputs and labels [size, longest].

        Labels are -100 where there is nothing to learn.
        """
        windows = [self.window() for _ in range(size)]
        samples = torch.zeros(size, WINDOW, device=self.device)
        for row, (placed, _) in enumerate(windows):
            for item in placed:
                first, length = int(self.starts[item.index]), int(self.lengths[item.index])
                spoken = self.audio[first : first + length].float() / 32768
                samples[row, item.start : item.start + length] = spoken
        inputs, labels = self._tokens([tokens for _, tokens in windows])
        return self._disturbed(samples), inputs.to(self.device), labels.to(self.device)

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

    def _tokens(self, rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        size, longest = len(rows), max(map(len, rows))
        labels = torch.full((size, longest), -100)
        for row, tokens in enumerate(rows):
            labels[row, : len(tokens)] = torch.tensor(tokens)
        inputs = torch.cat([torch.full((size, 1), self.ids[START]), labels[:, :-1]], 1)
        inputs = inputs.masked_fill(inputs < 0, self.ids[END])
        # The task is always given, so it is never learned. The language is: detection predicts it.
        labels[:, 1] = torch.where(labels[:, 1] == self.ids[END], labels[:, 1], -100)
        return inputs, labels
