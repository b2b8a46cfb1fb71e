"""Refusals in forked processes, which have a copy of their parent's memory and none of
its threads."""

import os

from antiphon.config.errors import ConfigurationError

REMEDY = "start it by multiprocessing's 'spawn', or make engines only after the fork"

COPIED = (
    "an engine has threads, and connections to its workers: it can't be pickled or copied. "
    "Make one where it is used"
)


def refuse_in_fork(pid: int, done: str) -> None:
    """Raises ConfigurationError in any process but `pid`. `done`: what that process had
    done that no forked child survives, as a phrase for the message ("a running
    engine")."""
    if os.getpid() != pid:
        raise ConfigurationError(
            f"this process was forked off process {pid}, which had {done}: "
            f"an engine would hang or crash in it; {REMEDY}"
        )
