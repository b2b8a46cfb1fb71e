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
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import psutil

from antiphon.actors.ray_address import check_reachable, check_same_cluster, use_saved_token
from antiphon.actors.ray_processes import RayProcesses, kill
from antiphon.config.errors import AntiphonError, ConfigurationError
from antiphon.runtime.forks import REMEDY, refuse_in_fork
from antiphon.runtime.threads import DaemonThreads

logger = logging.getLogger(__name__)

START_ATTEMPTS = 2  # of Ray, whose own limits are fixed and too short on a busy machine (15 s)
EXIT_SECONDS = 3.0  # for Ray to shut down when the program ends
MISMATCH = "Version mismatch"  # how Ray begins its refusal of another version of itself or Python
SIGACTION_BYTES = 512  # over the size of C's struct sigaction (152 or fewer)


class RaySession:
    """Shared by the engines of a process. The first one connects, unless the program has connected
    itself; the last one leaves."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._engines, self._started_here = 0, False
        self._thread = DaemonThreads(1, "antiphon-ray")
        self._connecting: Future[None] | None = None
        self._ray = RayProcesses()
        self._pid = os.getpid()
        self._ending = False

    def join(self, address: str | None) -> None:
        """Connects to Ray, or counts one more engine.

        Raises ConfigurationError if there is no cluster at `address`, if Ray does not start, and in
        a child forked from a process that had connected: the threads of Ray's client exist only in
        the parent.
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
                self._ray = RayProcesses()
                self._connecting = self._thread.submit(self._connect, address)
                self._connecting.result()
                self._started_here = True
            elif _inherited():
                _leave_to_parent()
                raise ConfigurationError(
                    "this process seems to have been forked off one that had called ray.init(): "
                    f"Ray's client has no threads in it, and an engine would hang; {REMEDY}"
                )
            elif address is not None:
                check_same_cluster(address, ray.get_runtime_context().gcs_address)
            self._engines += 1

    def _connect(self, address: str | None) -> None:
        for attempts_left in reversed(range(START_ATTEMPTS)):
            try:
                return _connect(address)
            except AntiphonError:
                raise
            except Exception as error:  # Ray has no type for a process of its own that is late
                self._ray.clear()
                if not attempts_left or self._ending:
                    raise ConfigurationError(_failure(address, error)) from error
                logger.warning("Ray did not start or answer (%s); trying once more", error)

    def end(self) -> None:
        """For a program that ends: Ray is not started any more."""
        self._ending = True

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
        self.end()
        _forbid_start()
        processes, left = self._ray.running(), False
        if self._connecting.done():
            with contextlib.suppress(TimeoutError):  # another disconnect may be in progress
                self._thread.submit(self._disconnect).result(EXIT_SECONDS)
                left = True
        kill(processes)
        _forget_exit()
        if not left:  # Ray's threads still run
            _skip_destructors()

    def _disconnect(self) -> None:
        """Ends a Ray that was started here, with all its processes; leaves one that was joined."""
        import ray

        processes = self._ray.running()
        ray.shutdown()
        kill(processes)  # the agents of a Ray that has just started would stay


session = RaySession()


def abandon() -> None:
    """Kills every process that this one has started, with Ray and its workers, at once and without
    notice. For a program that is about to end itself."""
    session.end()
    kill(psutil.Process().children(recursive=True))


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


def _named(address: str | None) -> str | None:
    """The cluster that is asked for; None for the running one, or one to start on this machine."""
    named = address or os.environ.get("RAY_ADDRESS")
    return None if named in (None, "", "local") else named


def _failure(address: str | None, error: Exception) -> str:
    if (named := _named(address)) is not None:
        return (
            f"cannot join the Ray cluster at {named}: {error} If its machine or this one is busy, "
            "try again later; else `ray status` tells how it is"
        )
    return (
        f"Ray did not start here: {error} Its logs are in /tmp/ray/session_latest/logs. On a busy "
        "machine, try again later, join a running cluster (`ray start --head`), or do without Ray "
        "(ray=False, --no-ray)"
    )


def _connect(address: str | None) -> None:
    """Joins the cluster at `address` or the running one, or starts one on this machine."""
    # Otherwise Ray warns of a coming change in how it hides GPUs from workers that asked for none.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    if (named := _named(address)) is None:
        logger.info("starting Ray, unless it runs already")
        local: dict[str, Any] = {"include_dashboard": False}
    else:
        check_reachable(named)
        use_saved_token()
        logger.info("joining the Ray cluster at %s", named)
        local = {}
    try:
        try:
            _init(address, **local)
        except ValueError:  # it found a running cluster, for which local options are refused
            _init(address)
    except ConnectionError as error:
        where = "on this machine" if named is None else f"at {named}"
        hint = "if it uses token authentication, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        raise ConfigurationError(f"no Ray cluster {where}: {error}; {hint}") from None
    except RuntimeError as error:  # of a late start, too
        if not str(error).startswith(MISMATCH):
            raise
        raise ConfigurationError(f"cannot join the running Ray cluster: {error}") from None


def _init(address: str | None, **local: Any) -> None:
    import ray

    with _own_handler_of(signal.SIGTERM):
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **local)


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
