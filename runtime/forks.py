"""What a process that was forked off another can't do: it has a copy of its memory, and none of its threads."""

import os

from antiphon.config.errors import ConfigurationError

REMEDY = "start it by multiprocessing's 'spawn', or make engines only after the fork"

COPIED = "an engine has threads, and connections to its workers: it can't be pickled or copied. Make one where it is used"


def refuse_in_fork(pid: int, done: str) -> None:
    """Raises ConfigurationError in any other process than `pid`, where something was `done` that no forked child survives."""
    if os.getpid() != pid:
        raise ConfigurationError(
            f"this process was forked off process {pid}, which had {done}: an engine would hang or crash in it; {REMEDY}"
        )
