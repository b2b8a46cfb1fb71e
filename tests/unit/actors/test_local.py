"""Workers in the calling process, and an event loop that ends before they do."""

from collections.abc import Callable
from typing import Any

from antiphon.actors.local import LocalWorkers
from antiphon.actors.messages import FrontendMessage, NotOpen
from antiphon.scheduler.request import Incarnation


class ClosingLoop:
    """Another thread closes it just after a worker's thread has asked."""

    def is_closed(self) -> bool:
        return False

    def call_soon_threadsafe(self, *_: object) -> None:
        raise RuntimeError("Event loop is closed")


def test_a_message_to_a_loop_that_was_just_closed_harms_no_worker() -> None:
    sending: list[Callable[[FrontendMessage], None]] = []
    workers: Any = object.__new__(LocalWorkers)
    workers._failed = None
    workers.start = lambda frontend, send: sending.append(send)
    workers.attach("frontend", ClosingLoop(), lambda message: None)
    sending[0](NotOpen([1], Incarnation("decoder-0", 0)))
