"""The output folder: whole files that appear at once, and logs that survive a kill.

On a local disk a log is one file that grows by a line at a time. Object stores cannot
append: there a log is a row of segments, each written whole at a checkpoint.
"""

from collections.abc import Callable, Iterator
from typing import IO, Any, Protocol

import msgspec

PRIVATE = "_antiphon"  # readers of a folder of data pass over names that begin with _


class Log(Protocol):
    """Lines in the order of writing. Only `append` is called in the event loop."""

    def append(self, line: bytes) -> None:
        """One line, with its line feed."""

    def checkpoint(self) -> None:
        """After it, no line appended before is lost, whatever happens to this process."""

    def lines(self) -> Iterator[bytes]:
        """The lines that are there from before, without one that was cut by a kill."""

    def publish(self, name: str) -> None:
        """Makes all lines the file `name` of the folder, at once, and the log empty."""

    def show(self) -> None:
        """Readers of the folder see all lines; for a log made by `visible_log`."""

    def remove(self) -> None: ...

    def close(self) -> None:
        """Leaves the lines for a later run."""


class Storage(Protocol):
    """A folder. Names are relative to it."""

    url: str

    def exists(self, name: str) -> bool: ...

    def names(self, folder: str) -> list[str]:
        """The files in a folder, without those in folders below; [] if there is no such folder."""

    def open(self, name: str) -> Any:
        """For reading, in a `with`."""

    def write(self, name: str, writing: Callable[[IO[bytes]], object]) -> None:
        """Makes a file of what `writing` writes; nobody sees it before it is complete."""

    def remove(self, name: str) -> None: ...

    def log(self, name: str) -> Log: ...

    def visible_log(self, name: str) -> Log:
        """A log that readers see as the file `name`: as it grows on a local disk, after
        `show` elsewhere."""

    def lock(self, name: str) -> None:
        """Held until `close`, or the end of this process. Raises ConfigurationError if
        another process holds it."""

    def close(self) -> None: ...


class _AnyObject(msgspec.Struct):
    """A JSON object with any keys."""


_OBJECTS = msgspec.json.Decoder(_AnyObject)


def is_whole(line: bytes) -> bool:
    """Whether a line of a log was written in whole."""
    if not line.endswith(b"\n"):
        return False
    try:
        _OBJECTS.decode(line)
    except msgspec.DecodeError:
        return False
    return True
