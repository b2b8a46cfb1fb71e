"""How a checkpoint's weights are quantised, as plain values: whatever the method that did it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from antiphon.config.errors import CheckpointError

Kind = Literal["int", "float", "nf4", "fp4"]
EVERY = 0  # as a size of a block: all rows, or all columns
EVERY_LINEAR = ("Linear",)  # as targets of a rule


@dataclass(frozen=True)
class WeightScheme:
    """Numbers of `bits` bits, with a scale for each block of rows (outputs) and columns (inputs).

    (EVERY, EVERY) is one scale for the tensor, (1, EVERY) one for each output, (1, 128) groups of
    inputs. `layout`: how the method stores them, for its own reader.
    """

    kind: Kind
    bits: int
    block: tuple[int, int] = (1, EVERY)
    symmetric: bool = True
    layout: str = ""

    def bytes_of(self, outputs: int, inputs: int) -> int:
        """That so many numbers take as they are stored; a scale and its zero point take four."""
        rows, columns = self.block
        by_output = 1 if columns == EVERY else -(-inputs // columns)
        groups = by_output * (1 if rows == EVERY else -(-outputs // rows))
        return outputs * inputs * self.bits // 8 + 4 * groups

    @property
    def label(self) -> str:
        """For people, as in `4 bits, groups of 128`."""
        rows, columns = self.block
        numbers = {"int": "int", "float": "float"}.get(self.kind)
        name = self.kind if numbers is None else f"{numbers}{self.bits}"
        by = {
            (EVERY, EVERY): "one scale",
            (1, EVERY): "a scale per output",
        }.get(self.block, f"groups of {columns}" if rows == 1 else f"blocks of {rows}x{columns}")
        return f"{name}, {by}{'' if self.symmetric else ', zero points'}"


@dataclass(frozen=True)
class InputScheme:
    """How a layer's input is quantised too, before a product of eight-bit numbers.

    `dynamic`: each token (and each `group` of its features) by its own largest element, which is
    cut at `limit`. Otherwise by one scale that the checkpoint holds.
    """

    kind: Literal["int", "float"]
    dynamic: bool = True
    symmetric: bool = True
    group: int = EVERY
    limit: float | None = None

    @property
    def label(self) -> str:
        by = "of the checkpoint" if not self.dynamic else "per token"
        if self.group:
            by = f"per token and {self.group} features"
        return f"{self.kind}8, scales {by}{'' if self.symmetric else ', zero points'}"


@dataclass(frozen=True)
class Scheme:
    """Of a linear layer. `inputs` None: they stay in the model's precision."""

    weights: WeightScheme
    inputs: InputScheme | None = None

    @property
    def label(self) -> str:
        inputs = "" if self.inputs is None else f"; inputs {self.inputs.label}"
        return f"weights {self.weights.label}{inputs}"


@dataclass(frozen=True)
class Rule:
    """Layers that are stored by `scheme`: by name, by a pattern behind `re:`, or, as `Linear`,
    all of a class."""

    targets: tuple[str, ...]
    scheme: Scheme


@dataclass(frozen=True)
class StoredQuantization:
    """What a checkpoint's `quantization_config` says.

    Which layers are quantised at all, the tensors say: a layer that is kept out has none of
    scales. Names are the checkpoint's, without `.weight`.
    """

    method: str  # quant_method
    rules: tuple[Rule, ...]
    kept_out: tuple[str, ...] = ()  # names and patterns of layers that are not quantised
    kv_scales: bool = False  # the checkpoint holds scales of keys and values

    def scheme_of(self, layer: str) -> Scheme:
        """Of the quantised layer of that name. A name counts more than a pattern, and that more
        than a class. Raises CheckpointError where no rule fits."""
        for fits in (_by_name, _by_pattern, _by_class):
            for rule in self.rules:
                if fits(layer, rule.targets):
                    return rule.scheme
        schemes = {rule.scheme for rule in self.rules}
        if len(schemes) == 1:
            return next(iter(schemes))
        raise CheckpointError(
            f"quantization_config ({self.method}) has {len(schemes)} schemes, and no target of "
            f"theirs fits the quantised layer {layer}"
        )

    def keeps_out(self, layer: str) -> bool:
        """Whether `kept_out` names the layer of that name, a part of the model that it is in, or a
        pattern that fits it."""
        named = any(f".{name}." in f".{layer}." for name in self.kept_out)
        return named or _by_pattern(layer, self.kept_out)

    @property
    def label(self) -> str:
        """For people, in one line."""
        schemes = dict.fromkeys(rule.scheme.label for rule in self.rules)
        return f"{self.method}: {' | '.join(schemes)}"


def _by_name(layer: str, targets: Sequence[str]) -> bool:
    return layer in targets


def _by_pattern(layer: str, targets: Sequence[str]) -> bool:
    return any(
        re.match(target.removeprefix("re:"), layer)
        for target in targets
        if target.startswith("re:")
    )


def _by_class(layer: str, targets: Sequence[str]) -> bool:
    """Whatever is quantised is a linear layer."""
    return "Linear" in targets
