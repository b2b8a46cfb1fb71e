"""How many ranks compute one replica of a half together."""

from dataclasses import dataclass
from typing import Literal

from antiphon.config.errors import ConfigurationError

TensorMode = Literal["weights", "data"]


@dataclass(frozen=True)
class Parallel:
    """Of one half's replica: `tensor` ranks share each layer, `pipeline` stages the
    stack.

    A rank's number is `stage * tensor + tensor_rank`. `mode`: the ranks of a stage
    share its weights, or each has all weights and they share a batch's inputs (encoders
    alone). `layers`: how many each stage has; empty: about equally many
    (`families.fitted` sets a decoder's by their cost).
    """

    tensor: int = 1
    pipeline: int = 1
    mode: TensorMode = "weights"
    layers: tuple[int, ...] = ()

    @property
    def num_ranks(self) -> int:
        return self.tensor * self.pipeline

    @property
    def leader(self) -> int:
        """The rank that schedules: the first of the last stage, which samples
        tokens."""
        return (self.pipeline - 1) * self.tensor

    def layers_of(self, stage: int, num_layers: int) -> range:
        """The layers of a stage. Where they do not divide, the first stages have one
        more: the last one also computes logits."""
        small, more = divmod(num_layers, self.pipeline)
        counts = self.layers or [small + (number < more) for number in range(self.pipeline)]
        first = sum(counts[:stage])
        return range(first, first + counts[stage])

    def stage_of(self, rank: int) -> int:
        return rank // self.tensor

    def tensor_rank_of(self, rank: int) -> int:
        return rank % self.tensor

    def __str__(self) -> str:
        return f"tensor {self.tensor} x pipeline {self.pipeline} = {self.num_ranks} ranks"


def layer_counts(name: str, text: str | None, stages: int) -> tuple[int, ...]:
    """Layers of each stage, from `text` such as "10,11,11"; empty for None. Raises
    ConfigurationError, which names the option `name`, unless each stage has a count."""
    if text is None:
        return ()
    try:
        counts = tuple(int(count) for count in text.split(","))
    except ValueError:
        counts = ()
    if not counts or min(counts) < 1:
        raise ConfigurationError(
            f"{name}={text!r} must be whole numbers above 0 with commas between them: the layers "
            "of each stage"
        )
    if len(counts) != stages:
        size = name.replace("pipeline_layers", "pipeline_parallel_size")
        raise ConfigurationError(
            f"{name}={text!r} is for {len(counts)} stages, and {size} is {stages}: give one number "
            "for each stage"
        )
    return counts


@dataclass(frozen=True)
class RankSpec:
    """Which rank of a replica a process is to be. `timeout`: seconds that it waits for
    other ranks in a collective call; `startup_timeout`: for their processes."""

    parallel: Parallel
    rank: int
    timeout: float
    startup_timeout: float
