"""Options of the processes that an engine's halves run in."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from antiphon.config.errors import ConfigurationError
from antiphon.config.option_table import option

StateTransport = Literal["auto", "nixl", "messages"]


@dataclass(frozen=True)
class WorkerOptions:
    """The workers' processes: where they run, and what they may use."""

    ray: bool = option(
        True, "without Ray both halves run in this process: a quicker start for one-off use"
    )
    address: str | None = option(
        None,
        "of a Ray cluster, HOST:PORT; by default the running one, else one on this machine",
    )
    placement: Literal["auto", "colocated", "disaggregated"] = option(
        "auto", "colocated: both halves in one process; disaggregated: each in its own"
    )
    state_transport: StateTransport = option(
        "auto",
        "of hidden states to decoders in other processes; auto: memory that both map on one node, "
        "else messages; nixl: NIXL to all of them (on trial)",
    )
    num_threads: int | None = option(
        None, "torch threads of each worker on a CPU; by default all cores"
    )
    startup_timeout: float = option(300.0, "seconds for all workers to load")
    name: str | None = option(
        None, "of the engine: other processes share its workers with `Engine.attach(name)`"
    )
    max_restarts: int = option(
        5,
        "restarts of one worker within ten minutes, or failed starts in a row; more, and it is "
        "given up",
        least=0,
    )
    heartbeat_timeout: float = option(
        2.0, "seconds without a sign of life until a worker is killed and started again"
    )
    hang_timeout: float | None = option(
        None,
        "the same for a worker whose loop stands still; by default 2 on a GPU, 62 where a worker "
        "has several, and 600 on a CPU, where one batch may take minutes",
    )
    collective_timeout: float | None = option(
        None,
        "seconds that a rank waits for the others of its replica until that ends as a whole; by "
        "default 60 on a GPU, and 600 on a CPU",
    )

    def __post_init__(self) -> None:
        """Raises ConfigurationError."""
        if self.state_transport == "nixl" and find_spec("nixl") is None:
            raise ConfigurationError(
                "state_transport='nixl' needs NIXL on every machine: pip install nixl; or leave it "
                "out"
            )
