"""Where a process receives messages, and the private folder of its Unix socket."""

import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import msgspec

MAX_SOCKET_PATH = 100  # bytes; the system allows 107
FOLDER_PREFIX = "antiphon-"
NEW_SECONDS = 60.0  # a folder younger than this may not have its lock yet


class Host(NamedTuple):
    """A node as its processes know it. `ip`: where other nodes reach it. `node`: equal for
    processes that share a file system."""

    ip: str
    node: str

    @classmethod
    def here(cls) -> "Host":
        """This process's node in the Ray cluster that it is connected to."""
        import ray  # not above: without Ray, nothing leaves this process

        context = ray.get_runtime_context()
        return cls(ray.util.get_node_ip_address(), context.get_node_id())


class Address(msgspec.Struct, frozen=True, array_like=True):
    """Where a receiver listens, and what senders need to be heard. Secret: it travels only through
    Ray and over channels.

    `tcp`, `ipc`: ZeroMQ endpoints. `node`: of the receiver; `ipc` is for senders on the same one.
    `public_key`: of the receiver's CURVE key pair. `token`: begins every message.
    """

    tcp: str
    ipc: str
    node: str
    public_key: bytes
    token: bytes

    def __repr__(self) -> str:  # secrets must not reach a log
        return f"Address({self.tcp}, {self.ipc})"

    def is_near(self, node: str) -> bool:
        """Whether a process on `node` reaches the Unix socket: equal nodes may be containers with
        file systems of their own."""
        return node == self.node and os.path.exists(self.ipc.removeprefix("ipc://"))


class SocketFolder:
    """A folder that only this user can enter, for one socket. It is locked while its process lives:
    a folder without a locker was left by a killed process, and the next one removes it."""

    def __init__(self) -> None:
        _remove_abandoned()
        self.path = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=_parent()))  # mode 0700
        self._lock = os.open(self.path / "lock", os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    @property
    def endpoint(self) -> str:
        return f"ipc://{self.path}/socket"

    def remove(self) -> None:
        """May be called twice."""
        if self._lock >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1


def _parent() -> str:
    """The folder of temporary files, unless the socket's path would be too long there."""
    parent = tempfile.gettempdir()
    return parent if len(parent) + 40 < MAX_SOCKET_PATH else "/tmp"


def _remove_abandoned() -> None:
    for folder in Path(_parent()).glob(f"{FOLDER_PREFIX}*"):
        try:
            status = folder.stat()
            is_old = time.time() - status.st_mtime > NEW_SECONDS
            if status.st_uid == os.getuid() and is_old and not _is_locked(folder / "lock"):
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # another process removed it at the same moment; or no folder of ours
            continue


def _is_locked(path: Path) -> bool:
    lock = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False
