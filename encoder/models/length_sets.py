"""Which tokens of an encoder's batch see each other: those of one of the sequences that it is cut
into.

A set is planned once for each batch, and every layer that attends within its sequences reads that
plan.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from antiphon.config.arithmetic import ceil_div

FULL = "full"  # name of the set of whole inputs


class LengthSet(ABC):
    """How the tokens of inputs are cut into sequences; no sequence has tokens of two inputs."""

    @abstractmethod
    def lengths(self, inputs: np.ndarray) -> np.ndarray:
        """Of inputs of these lengths [inputs] int -> [sequences] int, with the same sum."""

    @abstractmethod
    def most_sequences(self, tokens: int, inputs: int) -> int:
        """The most sequences that so many inputs with so many tokens in all can give."""

    @abstractmethod
    def longest(self, length: int) -> int:
        """The longest sequence of inputs no longer than `length`."""


@dataclass(frozen=True)
class WholeInputs(LengthSet):
    """Every token sees all tokens of its input."""

    def lengths(self, inputs: np.ndarray) -> np.ndarray:
        return inputs

    def most_sequences(self, tokens: int, inputs: int) -> int:
        return inputs

    def longest(self, length: int) -> int:
        return length


@dataclass(frozen=True)
class Blocks(LengthSet):
    """Inputs are cut into blocks of `size` tokens; the last one of an input may be shorter."""

    size: int

    def lengths(self, inputs: np.ndarray) -> np.ndarray:
        counts = -(-inputs // self.size)
        blocks = np.full(int(counts.sum()), self.size)
        blocks[counts.cumsum() - 1] = inputs - (counts - 1) * self.size
        return blocks

    def most_sequences(self, tokens: int, inputs: int) -> int:
        return min(tokens, ceil_div(tokens, self.size) + inputs)

    def longest(self, length: int) -> int:
        return min(self.size, length)
