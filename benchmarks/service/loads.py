"""One load after another on a server."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from antiphon.benchmarks.report import Row
from antiphon.benchmarks.service.arrivals import Arrivals
from antiphon.benchmarks.service.asks import Ask
from antiphon.benchmarks.service.exchange import Answer, Server
from antiphon.benchmarks.service.figures import figures
from antiphon.benchmarks.service.server_times import between
from antiphon.client.errors import ClientError
from antiphon.config.errors import ConfigurationError, RequestFailed
from antiphon.config.option_values import number


@dataclass(frozen=True)
class Target:
    """Which server, and which of its models. `timeout`: seconds of one request."""

    address: str
    api_key: str | None = field(default=None, repr=False)
    model: str | None = None
    timeout: float = 600.0

    def __post_init__(self) -> None:
        """Raises ConfigurationError."""
        number("timeout", self.timeout)


@dataclass(frozen=True)
class Load:
    """What became of a load: its answers, and a row of figures."""

    label: str
    answers: Sequence[Answer]
    row: Row


async def measure(
    target: Target, work: Sequence[Ask], arrivals: Sequence[Arrivals], warm_ups: int
) -> list[Load]:
    """All of `work` under each of `arrivals`. `warm_ups`: requests before, of which nothing is
    reported. Raises RequestFailed if the server does not answer, and ConfigurationError."""
    try:
        server = Server(target.address, target.api_key, target.model, target.timeout)
    except ValueError as error:  # a key that no header holds
        raise ConfigurationError(str(error)) from None
    try:
        server.model = server.model or await _only_model(server)
        for ask in work[:warm_ups]:
            await server.ask(ask)
        return [await _load(server, work, arriving) for arriving in arrivals]
    finally:
        await server.close()


async def _only_model(server: Server) -> str:
    try:
        names = [str(entry["id"]) for entry in await server.models()]
    except (ClientError, KeyError, ValueError) as error:
        raise RequestFailed(f"the server does not list its models: {error}") from None
    if len(names) != 1:
        raise ConfigurationError(f"name one of the server's models: {', '.join(names)}")
    return names[0]


async def _load(server: Server, work: Sequence[Ask], arriving: Arrivals) -> Load:
    before = await server.counters()
    answers = await arriving.run(work, server.ask)
    times = dict(between(before, await server.counters()))
    return Load(arriving.label, answers, {"load": arriving.label, **figures(answers), **times})
