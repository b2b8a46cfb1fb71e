"""Sizes of synthetic inputs, drawn from a distribution that is written in a few letters."""

import re
from dataclasses import dataclass

import numpy as np

from antiphon.config.errors import ConfigurationError

KINDS = {  # by name: the meaning of its numbers
    "uniform": "LOW:HIGH",
    "normal": "MEAN:DEVIATION",
    "lognormal": "MEDIAN:SPREAD",
}
NUMBER = r"(\d+(?:\.\d+)?)"
FORMS = f"a number, or one of {', '.join(f'{kind}:{meaning}' for kind, meaning in KINDS.items())}"


@dataclass(frozen=True)
class Sizes:
    """`kind`: 'fixed' or one of `KINDS`. The spread of 'lognormal' is that of the logarithm."""

    kind: str
    first: float
    second: float = 0.0

    @classmethod
    def of(cls, text: str) -> "Sizes":
        """From `30`, `uniform:1:30`, `normal:10:3` or `lognormal:8:0.6`.

        Raises ConfigurationError.
        """
        if match := re.fullmatch(NUMBER, text):
            sizes = cls("fixed", float(match[1]))
        elif match := re.fullmatch(f"({'|'.join(KINDS)}):{NUMBER}:{NUMBER}", text):
            sizes = cls(match[1], float(match[2]), float(match[3]))
        else:
            raise ConfigurationError(f"'{text}' is no size: give {FORMS}")
        if sizes.first <= 0 or (sizes.kind == "uniform" and sizes.second < sizes.first):
            raise ConfigurationError(f"'{text}': sizes must be above 0, the lower one first")
        return sizes

    def draw(self, count: int, rng: np.random.Generator, least: float) -> list[float]:
        """`count` sizes, none below `least`."""
        match self.kind:
            case "uniform":
                drawn = rng.uniform(self.first, self.second, count)
            case "normal":
                drawn = rng.normal(self.first, self.second, count)
            case "lognormal":
                drawn = rng.lognormal(np.log(self.first), self.second, count)
            case _:
                drawn = np.full(count, self.first)
        sizes: list[float] = np.maximum(drawn, least).tolist()
        return sizes
