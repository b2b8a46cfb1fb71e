"""How an audio encoder wants its samples: what preprocessor_config.json says of them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from antiphon.config.arithmetic import ceil_div, round_up
from antiphon.config.errors import CheckpointError

WINDOW_STEP = 25  # tokens; half a second of Whisper's
# Silence that a shortened window keeps, in tokens (2 s): models trained on full windows hear in it
# that the speech has ended. Word error rate of the shipped model on 120 clips, by this margin: none
# 127 %, 25 tokens 9.6 %, 50 0.8 %, 100 and more 0.0 %, as with full windows.
WINDOW_MARGIN = 100
# Taps and stride of each convolution over samples (Moonshine).
CONVOLUTIONS = ((127, 64), (7, 3), (3, 2))


@dataclass(frozen=True)
class AudioConfig:
    """How a model wants its audio. Lengths are in samples, rates in Hz."""

    any_length: ClassVar[bool] = False  # clips are encoded as long as they are
    # Text of a transcription ends there, since nobody says more; None: it need not.
    most_tokens_a_second: ClassVar[float | None] = None

    sampling_rate: int = 16_000
    window: int = 480_000  # samples of one encoder input
    fft_size: int = 400
    hop: int = 160
    mel_bins: int = 80

    @property
    def window_seconds(self) -> float:
        return self.window / self.sampling_rate

    @property
    def tokens(self) -> int:
        """Encoder tokens of a full window: one for two frames."""
        return self.window // self.hop // 2

    def tokens_of(self, samples: int) -> int:
        """Encoder tokens of a shortened window: a clip of `samples` with the silence it keeps.

        A multiple of WINDOW_STEP, at most those of a full window.
        """
        needed = ceil_div(samples, 2 * self.hop) + WINDOW_MARGIN
        return min(self.tokens, round_up(needed, WINDOW_STEP))

    @classmethod
    def load(cls, folder: Path, mel_bins: int, max_positions: int) -> "AudioConfig":
        """From a checkpoint folder; the encoder's positions set the window (two frames each).

        Raises CheckpointError where the feature extractor's settings contradict the model's.
        """
        raw = _feature_settings(folder)

        def number(name: str, default: int) -> int:
            value = default if raw.get(name) is None else raw[name]
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise CheckpointError(
                    f"{folder}: {name} of the feature extractor must be a whole number above 0, "
                    f"not {value!r}"
                )
            return value

        hop, bins = number("hop_length", 160), number("feature_size", mel_bins)
        if bins != mel_bins:
            raise CheckpointError(
                f"{folder}: the feature extractor makes {bins} mel bins, the encoder takes "
                f"{mel_bins}"
            )
        return cls(
            sampling_rate=number("sampling_rate", 16_000),
            window=max_positions * 2 * hop,
            fft_size=number("n_fft", 400),
            hop=hop,
            mel_bins=mel_bins,
        )


@dataclass(frozen=True)
class WaveformConfig(AudioConfig):
    """Of an encoder that reads samples (Moonshine, Jeffries et al. 2024). Its clips may have any
    length; recordings are cut into pieces of `window`, since it was trained on no longer ones."""

    any_length: ClassVar[bool] = True
    most_tokens_a_second: ClassVar[float | None] = 6.5  # as its authors advise: it may loop

    fft_size: int = 0
    hop: int = 0
    mel_bins: int = 0

    @property
    def tokens(self) -> int:
        return self.tokens_of(self.window)

    @property
    def shortest(self) -> int:
        """Samples that become one token; shorter clips are padded."""
        samples = 1
        for taps, stride in reversed(CONVOLUTIONS):
            samples = (samples - 1) * stride + taps
        return samples

    def tokens_of(self, samples: int) -> int:
        count = max(samples, self.shortest)
        for taps, stride in CONVOLUTIONS:
            count = (count - taps) // stride + 1
        return count

    def first_frames(self, samples: int) -> int:
        """What the first convolution makes of a clip."""
        taps, stride = CONVOLUTIONS[0]
        return (max(samples, self.shortest) - taps) // stride + 1

    @classmethod
    def of_checkpoint(cls, folder: Path) -> Self:
        """Raises CheckpointError for a feature extractor that changes samples."""
        raw, rate = _feature_settings(folder), cls.sampling_rate
        if raw.get("do_normalize"):
            raise CheckpointError(f"{folder}: do_normalize=true of its samples is not supported")
        if raw.get("sampling_rate", rate) != rate:
            raise CheckpointError(
                f"{folder}: sampling_rate={raw['sampling_rate']!r}; the convolutions of this "
                f"encoder are for {rate}"
            )
        return cls()


def _feature_settings(folder: Path) -> dict[str, Any]:
    """transformers writes preprocessor_config.json; since v5, part of processor_config.json."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).exists():
            try:
                raw: dict[str, Any] = json.loads((folder / name).read_text("utf-8-sig"))
                section = raw.get("feature_extractor", raw)
            except (OSError, ValueError, AttributeError) as error:
                raise CheckpointError(f"cannot read {folder / name}: {error}") from None
            return section if isinstance(section, dict) else raw
    return {}
