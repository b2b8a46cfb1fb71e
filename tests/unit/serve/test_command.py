"""What `antiphon serve` does beside its engines and its server."""

from types import SimpleNamespace
from typing import Any

from antiphon.config.errors import EngineDeadError
from antiphon.serve.command import num_open


def engine(counters: dict[str, int] | None) -> Any:
    def stats() -> dict[str, int]:
        if counters is None:
            raise EngineDeadError("the engine has ended")
        return counters

    return SimpleNamespace(stats=stats)


def test_requests_of_others_are_waited_for_where_one_engine_has_ended() -> None:
    assert num_open([engine({"open": 2}), engine(None), engine({"open": 1}), engine({})]) == 3
    assert num_open([engine(None)]) == 0
