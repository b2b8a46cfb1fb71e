"""The HTTP server in a thread, with engines in one process."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from antiphon.serve.one_process import OneProcessServer, opener
from antiphon.serve.settings import Limits, ServerSettings

SECONDS = 60.0


class Running:
    """A server that runs in a thread of its own."""

    def __init__(
        self,
        models: Mapping[str, str],
        limits: Limits,
        options: Mapping[str, Any],
        **settings: Any,
    ) -> None:
        """`options`: of each engine."""
        engine = {"ray": False, "max_num_seqs": 8, **options}
        openers = {name: opener(path, engine) for name, path in models.items()}
        self.server = OneProcessServer(ServerSettings(port=0, limits=limits, **settings), openers)
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    @property
    def service(self) -> Any:
        return self.server.app.state.service

    @property
    def url(self) -> str:
        return self.server.address

    def start(self) -> None:
        self.thread.start()
        end = time.monotonic() + SECONDS
        while not self.server.started:
            assert self.thread.is_alive()
            assert time.monotonic() < end
            time.sleep(0.01)

    def begin_to_stop(self) -> None:
        self.server.should_exit = True

    def stop(self) -> None:
        self.begin_to_stop()
        self.thread.join(SECONDS)
        assert not self.thread.is_alive()


@contextmanager
def running_server(
    models: Mapping[str, str],
    limits: Limits | None = None,
    options: Mapping[str, Any] = MappingProxyType({}),
    **settings: Any,
) -> Iterator[Running]:
    running = Running(models, limits or Limits(), options, **settings)
    running.start()
    try:
        yield running
    finally:
        running.stop()
