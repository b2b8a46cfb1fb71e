"""This process's connection to Ray: one for all its engines, in a thread that never ends.

The kernel ends Ray's processes together with the thread that started them, and Ray then ends the
program. So that thread must belong to no engine and to no event loop.
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

CONNECT_SECONDS = 5.0  # for a cluster's port to answer
ANSWER_SECONDS = 3.0  # for what listens there to say its first bytes
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS_FRAME = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # without settings
EXIT_SECONDS = 3.0  # for Ray to shut down when the program ends
SIGACTION_BYTES = 512  # over the size of C's struct sigaction (152 or fewer)


class RaySession:
    """Shared by the engines of a process. The first one connects, unless the program has connected
    itself; the last one leaves."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._engines, self._started_here = 0, False
        self._thread = DaemonThreads(1, "antiphon-ray")
        self._connecting: Future[None] | None = None
        self._others: set[int] = set()  # processes that the program had started before
        self._pid = os.getpid()

    def join(self, address: str | None) -> None:
        """Connects to Ray, or counts one more engine.

        Raises ConfigurationError if there is no cluster at `address`, and in a child forked from a
        process that had connected: the threads of Ray's client exist only in the parent.
        """
        if self._connecting is not None:
            # Before taking the lock: a thread of the parent may have held it during the fork.
            refuse_in_fork(self._pid, "connected to Ray")
        with self._lock:
            import ray  # before the exit is registered: what is registered last runs first

            if not ray.is_initialized():
                if self._connecting is None:
                    os.register_at_fork(after_in_child=_leave_to_parent)
                atexit.register(self._exit)
                self._others = {child.pid for child in psutil.Process().children()}
                self._connecting = self._thread.submit(_connect, address)
                self._connecting.result()
                self._started_here = True
            elif _inherited():
                _leave_to_parent()
                raise ConfigurationError(
                    "this process seems to have been forked off one that had called ray.init(): "
                    f"Ray's client has no threads in it, and an engine would hang; {REMEDY}"
                )
            elif address is not None:
                _check_same_cluster(address, ray.get_runtime_context().gcs_address)
            self._engines += 1

    def leave(self) -> None:
        with self._lock:
            self._engines -= 1
            if not self._engines and self._started_here:
                self._started_here = False
                self._thread.submit(self._disconnect).result()
                atexit.unregister(self._exit)

    def _exit(self) -> None:
        """For a program that ends while Ray runs, starts or stops: Ray's agents would outlive it by
        a minute."""
        if os.getpid() != self._pid or self._connecting is None:
            return
        _forbid_start()
        processes, left = self._processes(), False
        if self._connecting.done():
            with contextlib.suppress(TimeoutError):  # another disconnect may be in progress
                self._thread.submit(self._disconnect).result(EXIT_SECONDS)
                left = True
        _kill(processes)
        _forget_exit()
        if not left:  # Ray's threads still run
            _skip_destructors()

    def _disconnect(self) -> None:
        """Ends a Ray that was started here, with all its processes; leaves one that was joined."""
        import ray

        processes = self._processes()
        ray.shutdown()
        _kill(processes)  # the agents of a Ray that has just started would stay

    def _processes(self) -> list[psutil.Process]:
        """The processes of a Ray that was started here."""
        processes: list[psutil.Process] = []
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.Error):  # if it ends at this moment
                is_ray = any("/ray/" in word for word in child.cmdline())
                if child.pid not in self._others and is_ray:
                    processes += [child, *child.children(recursive=True)]
        return processes


session = RaySession()


def abandon() -> None:
    """Kills every process that this one has started, with Ray and its workers, at once and without
    notice. For a program that is about to end itself."""
    _kill(psutil.Process().children(recursive=True))


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()


def _inherited() -> bool:
    """Whether the program's own connection to Ray was made before a fork.

    Ray doesn't record the process, but a fork leaves a dead copy of the client's listener thread.
    (Ray's workers run no such thread.)
    """
    from ray._private.worker import global_worker

    listener = getattr(global_worker, "listener_thread", None)
    return global_worker.connected and listener is not None and not listener.is_alive()


def _forbid_start() -> None:
    """For a program that ends: a call that an engine's thread makes now would start Ray anew."""
    from ray._private import auto_init_hook

    auto_init_hook.enable_auto_connect = False


def _forget_exit() -> None:
    """Ray's own shutdown at exit waits for processes that are gone."""
    import ray

    atexit.unregister(ray.shutdown)


def _leave_to_parent() -> None:
    """Lets a forked child end without Ray's exit steps (its shutdown, its client of the cluster's
    state, its C++ destructors): they would wait for threads that only the parent has."""
    if "ray" not in sys.modules:
        return
    from ray._private.state import state

    _forget_exit()
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(state._global_state_accessor))  # never ended
    _skip_destructors()


def _skip_destructors() -> None:
    """Ends the process without C++ destructors, once Python is done: they take from threads of Ray
    that still run what these read, which then crash."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "on_exit"):  # glibc; what is registered last runs first, with the exit status
        libc.on_exit(libc._exit, None)


def _connect(address: str | None) -> None:
    """Joins the cluster at `address` or the running one, or starts one on this machine."""
    import ray

    # Otherwise Ray warns of a coming change in how it hides GPUs from workers that asked for none.
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
    """Keeps the program's handler of a signal. Ray's C++ side installs its own, which writes a
    stack trace of twenty lines; Python can restore a handler only in the main thread."""
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
    """Raises ConfigurationError if `address` is not the cluster that this process has joined: a
    process is in one cluster at a time."""
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
            f"address={address!r}, but this process is in the Ray cluster at {joined}: "
            "leave out address, or use another process"
        )


def check_reachable(address: str) -> None:
    """Raises ConfigurationError if no cluster answers. Ray itself would try for minutes, with lines
    of its C++ side on stderr, or raise a ValueError."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise ConfigurationError(
            f"no Ray cluster at {address!r}: give HOST:PORT, as `ray start --head` prints it, "
            "or 'auto' for one on this machine"
        )
    try:
        peer = (host.strip("[]"), int(port))
        with socket.create_connection(peer, timeout=CONNECT_SECONDS) as connection:
            speaks = os.environ.get("RAY_USE_TLS", "0") != "0" or _speaks_grpc(connection)
    except (OSError, OverflowError) as error:
        raise ConfigurationError(f"no Ray cluster at {address}: {error}") from None
    if not speaks:
        raise ConfigurationError(
            f"no Ray cluster at {address}: something else listens there. Give HOST:PORT, as "
            "`ray start --head` prints it (port 6379 unless chosen otherwise)"
        )


def _speaks_grpc(connection: socket.socket) -> bool:
    """Whether the other side answers as a gRPC server does, which every Ray cluster has: it begins
    with a SETTINGS frame (RFC 9113, 3.4). Waits up to ANSWER_SECONDS."""
    connection.settimeout(ANSWER_SECONDS)
    try:
        connection.sendall(HTTP2_PREFACE + SETTINGS_FRAME)
        with connection.makefile("rb") as answer:
            head = answer.read(len(SETTINGS_FRAME))
    except OSError:  # it said nothing, or broke off
        return False
    # Behind the three bytes of its length: type 4, flags 0, stream 0.
    return len(head) == len(SETTINGS_FRAME) and head[3:] == SETTINGS_FRAME[3:]


def _use_saved_token() -> None:
    """Turns token authentication on if a token is saved, as `ray start` does. Ray saves one on
    every machine where it runs, but does not use it when joining by address."""
    if "RAY_AUTH_MODE" in os.environ:
        return
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()
    if "RAY_AUTH_TOKEN" in os.environ or path.exists():
        from ray._raylet import Config  # type: ignore[attr-defined]

        os.environ["RAY_AUTH_MODE"] = "token"
        Config.initialize("")  # reads the variable again: the import of Ray has read it before
