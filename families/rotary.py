"""Rotary positions as config.json describes them, in today's spelling and in the older one."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from antiphon.config.errors import UnsupportedModelError

# "dynamic" stretches sequences longer than the model's limit, which none is here. "mrope" is the
# older name for positions of several axes.
KINDS = ("default", "linear", "dynamic", "llama3", "yarn", "mrope")
DEFAULT_THETA = 10_000.0


@dataclass(frozen=True)
class Llama3Scaling:
    """How Llama 3.1 stretches long wavelengths (tokens) by `factor`, and keeps short ones.

    Wavelengths over `original_len / low` are stretched, those under `original_len / high` kept, and
    those between are blended.
    """

    factor: float
    low: float
    high: float
    original_len: int

    def frequency(self, frequency: float) -> float:
        """The scaled frequency (radians per token)."""
        turns = self.original_len * frequency / (2 * math.pi)  # within the original length
        kept = min(1.0, max(0.0, (turns - self.low) / (self.high - self.low)))
        return kept * frequency + (1 - kept) * frequency / self.factor


@dataclass(frozen=True)
class YarnScaling:
    """YaRN (Peng et al. 2023): planes that turn fewer than `slow` times within `original_len`
    tokens are slowed by `factor`, those that turn more than `fast` times are kept, and planes
    between are blended by their number."""

    factor: float
    slow: float
    fast: float
    original_len: int
    truncates: bool  # the ends of the blend lie at whole planes

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """Raises as `Rotary.of`."""
        return cls(
            float(settings["factor"]),
            float(settings.get("beta_slow") or 1),
            float(settings.get("beta_fast") or 32),
            int(settings["original_max_position_embeddings"]),
            bool(settings.get("truncate", True)),
        )

    def frequencies(self, frequencies: Sequence[float], size: int, theta: float) -> list[float]:
        """The scaled frequencies (radians per token) of all planes."""

        def plane(turns: float) -> float:
            """Number of the plane that turns so often within the original length."""
            tokens = self.original_len / (turns * 2 * math.pi)
            return size * math.log(tokens) / (2 * math.log(theta))

        low, high = plane(self.fast), plane(self.slow)
        if self.truncates:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, size - 1)
        width = max(high - low, 0.001)
        slowed = (min(1.0, max(0.0, (i - low) / width)) for i in range(len(frequencies)))
        return [
            frequency * (1 - share) + frequency / self.factor * share
            for frequency, share in zip(frequencies, slowed, strict=True)
        ]


def _yarn_gain(settings: Mapping[str, Any]) -> float:
    """YaRN's factor on turned queries and keys, which sharpens attention over long texts."""

    def gain(scale: float = 1.0) -> float:
        factor = float(settings["factor"])
        return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1

    if (stated := settings.get("attention_factor")) is not None:
        return float(stated)
    scale, scale_of_all = settings.get("mscale"), settings.get("mscale_all_dim")
    return gain(scale) / gain(scale_of_all) if scale and scale_of_all else gain()


@dataclass(frozen=True)
class Rotary:
    """Rotary positions (Su et al. 2021) of the first `size` features of each head.

    Feature i of the first half and feature i of the second half are one plane, which turns by
    `theta ** (-2i / size)` radians a token, after scaling.
    """

    size: int
    theta: float = DEFAULT_THETA
    factor: float = 1.0  # all frequencies are divided by it
    llama3: Llama3Scaling | None = None
    yarn: YarnScaling | None = None
    gain: float = 1.0  # on what is turned
    # Planes that turn by a token's frame, row and column (Wang et al. 2024); empty: one position.
    sections: tuple[int, ...] = ()

    @classmethod
    def of(cls, config: Mapping[str, Any], head_dim: int) -> Self:
        """From config.json. transformers 5 writes `rope_parameters`; before, `rope_theta` stood
        beside `rope_scaling`.

        Raises UnsupportedModelError for a kind of scaling that is not known, and KeyError,
        TypeError or ValueError for one without its numbers.
        """
        settings = {
            "rope_theta": config.get("rope_theta", DEFAULT_THETA),
            "partial_rotary_factor": config.get("partial_rotary_factor", 1.0),
            **(config.get("rope_scaling") or {}),
            **(config.get("rope_parameters") or {}),
        }
        kind = settings.get("rope_type", settings.get("type", "default"))
        if kind not in KINDS:
            raise UnsupportedModelError(
                f"rotary positions of kind {kind!r} are not supported, only {', '.join(KINDS)}"
            )
        llama3 = None
        if kind == "llama3":
            llama3 = Llama3Scaling(
                float(settings["factor"]),
                float(settings["low_freq_factor"]),
                float(settings["high_freq_factor"]),
                int(settings["original_max_position_embeddings"]),
            )
        return cls(
            size=int(head_dim * settings["partial_rotary_factor"]),
            theta=float(settings["rope_theta"]),
            factor=float(settings["factor"]) if kind == "linear" else 1.0,
            llama3=llama3,
            yarn=YarnScaling.of(settings) if kind == "yarn" else None,
            gain=_yarn_gain(settings) if kind == "yarn" else 1.0,
            sections=tuple(map(int, settings.get("mrope_section") or ())),
        )

    def frequencies(self) -> list[float]:
        """Of each plane [size / 2], in radians per token."""
        planes = (self.theta ** (-2 * plane / self.size) for plane in range(self.size // 2))
        frequencies = [frequency / self.factor for frequency in planes]
        if self.yarn is not None:
            return self.yarn.frequencies(frequencies, self.size, self.theta)
        if self.llama3 is None:
            return frequencies
        return [self.llama3.frequency(frequency) for frequency in frequencies]
