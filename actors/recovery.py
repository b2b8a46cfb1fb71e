"""The members of an engine whose supervisor has died, for the one that Ray starts in its place.

The workers' processes were started by the engine's own process (`actors/starting.py`): they run on,
and are taken over as they are, with their requests. Where that process was too busy, the supervisor
had started one itself, and Ray ends it with the supervisor: it starts again. Nobody knows what was
started last without telling anybody, so each life of a supervisor numbers epochs in a range of its
own.
"""

from collections.abc import Collection, Iterable

from antiphon.actors import member_messages
from antiphon.actors.members import Member, State
from antiphon.scheduler.request import Incarnation
from antiphon.scheduler.worker_names import number_of, worker_name

EPOCHS_OF_ONE_LIFE = 1_000_000
FIRST_SECONDS = 3.0  # beside `heartbeat_timeout`, for a worker to learn where heartbeats go now
REASON = "it ended with the supervisor that had started it"


def recovered(
    known: Iterable[member_messages.Member],
    outlive: Collection[Incarnation],
    colocated: bool,
    now: float,
) -> tuple[list[Member], int]:
    """The members, and the epoch above which the next ones begin. `outlive`: workers whose process
    does not end with a supervisor."""
    members = [
        _recovered(member, outlive, colocated, now)
        for member in known
        if _counts(member, colocated)
    ]
    highest = max((member.epoch for member in members), default=0)
    return members, (highest // EPOCHS_OF_ONE_LIFE + 1) * EPOCHS_OF_ONE_LIFE


def _counts(member: member_messages.Member, colocated: bool) -> bool:
    """A colocated process is told as one member of each half."""
    return not colocated or member.role == "decoder"


def _recovered(
    known: member_messages.Member, outlive: Collection[Incarnation], colocated: bool, now: float
) -> Member:
    role = "colocated" if colocated else known.role
    name = worker_name(role, number_of(known.name))
    member = Member(name, role, known.epoch, since=now, busy_at=now, restart_at=now)
    member.heard_at = now + FIRST_SECONDS
    if known.alive and member.incarnation in outlive:
        member.address, member.load, member.held = known.address, known.load, known.held
        member.removing = known.draining
        member.state = State.DRAINING if known.draining else State.READY
    else:
        member.state, member.ended, member.last_load = State.WAITING, REASON, known.load
    return member
