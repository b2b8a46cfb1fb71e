"""The processes of a Ray that this program starts, which Ray's own end leaves behind at times."""

import contextlib
import time
from collections.abc import Iterable

import psutil

KILL_SECONDS = 3.0  # for the system to end what was killed
CHECK_SECONDS = 0.01


class RayProcesses:
    """Made before Ray is started: what the program had started by then is not among them."""

    def __init__(self) -> None:
        self._others = {child.pid for child in psutil.Process().children()}

    def running(self) -> list[psutil.Process]:
        processes: list[psutil.Process] = []
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.Error):  # if it ends at this moment
                is_ray = any("/ray/" in word for word in child.cmdline())
                if child.pid not in self._others and is_ray:
                    processes += [child, *child.children(recursive=True)]
        return processes

    def clear(self) -> None:
        """After a start or a join that failed: Ray can be started anew. Its client keeps what it
        has got so far, and would take the next start for a second one."""
        import ray  # not above: it takes seconds to import

        processes = self.running()  # before the shutdown: it ends the parents of some
        with contextlib.suppress(Exception):  # it meets what the start has not made
            ray.shutdown()
        kill(processes)
        until = time.monotonic() + KILL_SECONDS
        while any(map(_runs, processes)) and time.monotonic() < until:
            time.sleep(CHECK_SECONDS)


def kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
