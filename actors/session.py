"""This process's connection to Ray: one for all its engines, in a thread that lives as long as the process.

The kernel ends Ray's processes together with the thread that started them, and Ray then ends the program. So that thread must
belong to no engine and to no event loop.
"""

import atexit
import contextlib
import ctypes
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import psutil

from antiphon.config.errors import ConfigurationError
from antiphon.runtime.forks import REMEDY, refuse_in_fork
from antiphon.runtime.threads import DaemonThreads

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
EXIT_SECONDS = 3.0
SIGACTION_BYTES = 512  # C's struct sigaction, which has 152 or fewer, is only kept here


class RaySession:
    """Shared by the engines of a process: the first connects, unless the program had, and the last leaves."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._engines, self._ours = 0, False
        self._thread = DaemonThreads(1, "antiphon-ray")
        self._connecting: Future[None] | None = None
        self._others: set[int] = set()  # processes that the program had started before
        self._pid = os.getpid()

    def join(self, address: str | None) -> None:
        """Raises ConfigurationError where there is no cluster at `address`, and in a child that was forked off a process which had
        connected: Ray's threads, which its client needs, stayed behind there."""
        if self._connecting is not None:
            refuse_in_fork(
                self._pid, "connected to Ray"
            )  # before the lock, which another thread may have held then
        with self._lock:
            import ray  # before the exit is registered: what is registered last runs first

            if not ray.is_initialized():
                if self._connecting is None:
                    os.register_at_fork(after_in_child=_leave_to_parent)
                atexit.register(self._exit)
                self._others = {child.pid for child in psutil.Process().children()}
                self._connecting = self._thread.submit(_connect, address)
                self._connecting.result()
                self._ours = True
            elif _inherited():
                _leave_to_parent()
                raise ConfigurationError(
                    f"this process seems to have been forked off one that had called ray.init(): Ray's client has no threads "
                    f"in it, and an engine would hang; {REMEDY}"
                )
            elif address is not None:
                _check_same_cluster(address, ray.get_runtime_context().gcs_address)
            self._engines += 1

    def leave(self) -> None:
        with self._lock:
            self._engines -= 1
            if not self._engines and self._ours:
                self._ours = False
                self._thread.submit(self._disconnect).result()
                atexit.unregister(self._exit)

    def _exit(self) -> None:
        """The program ends while Ray runs, starts or stops. Ray's agents would outlive it by a minute."""
        if os.getpid() != self._pid or self._connecting is None:
            return
        processes = self._processes()
        if self._connecting.done():
            with contextlib.suppress(TimeoutError):
                self._thread.submit(self._disconnect).result(
                    EXIT_SECONDS
                )  # perhaps behind one that is under way
        _kill(processes)
        _forget_exit()

    def _disconnect(self) -> None:
        """Ends a Ray that was started here, with all its processes; leaves one that was joined."""
        import ray

        processes = self._processes()
        ray.shutdown()
        _kill(processes)  # the agents of a Ray that had hardly started stay behind

    def _processes(self) -> list[psutil.Process]:
        """Those of a Ray that was started here."""
        found: list[psutil.Process] = []
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.Error):  # it ends at this moment
                if child.pid not in self._others and any(
                    "/ray/" in word for word in child.cmdline()
                ):
                    found += [child, *child.children(recursive=True)]
        return found


session = RaySession()


def abandon() -> None:
    """Kills every process that this one has started, Ray's and its workers among them, at once. For a program that is about to
    end itself: nothing is told to anybody."""
    _kill(psutil.Process().children(recursive=True))


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()


def _inherited() -> bool:
    """Whether the program's own connection to Ray was made before a fork. Ray doesn't note the process; but of the threads that a
    driver's client has, a fork leaves dead copies. (In Ray's workers, which run no such thread, nobody forks.)"""
    from ray._private.worker import global_worker

    listener = getattr(global_worker, "listener_thread", None)
    return global_worker.connected and listener is not None and not listener.is_alive()


def _forget_exit() -> None:
    """Ray's own shutdown at exit waits for processes that are gone."""
    import ray

    atexit.unregister(ray.shutdown)


def _leave_to_parent() -> None:
    """In a forked child, whatever of Ray ends at its exit would wait for threads that only the parent has, or crash without them:
    Ray's shutdown, its client of the cluster's state, its C++ side. The child ends without them."""
    if "ray" not in sys.modules:
        return
    from ray._private.state import state

    _forget_exit()
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(state._global_state_accessor))  # never ended
    libc = ctypes.CDLL(None)
    if hasattr(libc, "on_exit"):  # glibc; what is registered last runs first, with the exit status
        libc.on_exit(libc._exit, None)


def _connect(address: str | None) -> None:
    """Joins the given or the running cluster, or starts one on this machine."""
    import ray

    # Without it, Ray warns of a change to come in how it hides GPUs from workers that asked for none.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    named = address or os.environ.get("RAY_ADDRESS")
    if named in (None, "", "local"):
        logger.info("starting Ray, unless it runs already")
        local: dict[str, Any] = {"include_dashboard": False}
    else:
        check_reachable(named)
        _use_saved_token()
        logger.info("joining the Ray cluster at %s", named)
        local = {}
    try:
        with _own_handler_of(signal.SIGTERM):
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **local)
    except ValueError:  # it found a running cluster, for which local options are refused
        with _own_handler_of(signal.SIGTERM):
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except ConnectionError as error:
        hint = "if it uses token authentication, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        raise ConfigurationError(f"no Ray cluster at {named}: {error}; {hint}") from None


@contextlib.contextmanager
def _own_handler_of(signum: int) -> Iterator[None]:
    """Leaves a signal to the program. Ray's C++ side puts a handler of its own before whatever there
    is, which writes a stack trace of twenty lines; Python can put it back in the main thread alone."""
    libc = ctypes.CDLL(None)
    action = ctypes.create_string_buffer(SIGACTION_BYTES)
    before = signal.getsignal(signum)
    libc.sigaction(signum, None, action)
    try:
        yield
    finally:
        if signal.getsignal(signum) is before:  # else the program has set another one meanwhile
            libc.sigaction(signum, action, None)


def _check_same_cluster(address: str, joined: str) -> None:
    """A process is in one cluster at a time. Raises ConfigurationError where it should join another than `joined`."""
    if address in ("auto", "local"):
        return
    check_reachable(address)
    host, _, port = address.removeprefix("ray://").rpartition(":")
    own_host, _, own_port = joined.rpartition(":")
    same_host = socket.gethostbyname(host.strip("[]")) in (
        socket.gethostbyname(own_host),
        "127.0.0.1",
    )
    if port != own_port or not same_host:
        raise ConfigurationError(
            f"address={address!r}, but this process is in the Ray cluster at {joined}: leave out address, or use another process"
        )


def check_reachable(address: str) -> None:
    """Ray itself tries a wrong address for minutes, and raises a ValueError for what is none."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise ConfigurationError(
            f"no Ray cluster at {address!r}: give HOST:PORT, as `ray start --head` prints it, or 'auto' for one on this machine"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ConfigurationError(f"no Ray cluster at {address}: {error}") from None


def _use_saved_token() -> None:
    """`ray start` turns token authentication on wherever a token is saved, and every local Ray saves one; but who joins by address
    must ask for it."""
    if "RAY_AUTH_MODE" in os.environ:
        return
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()
    if "RAY_AUTH_TOKEN" in os.environ or path.exists():
        from ray._raylet import Config  # type: ignore[attr-defined]

        os.environ["RAY_AUTH_MODE"] = "token"
        Config.initialize("")  # the variable was read when Ray was imported
