"""What frontends and an engine's supervisor tell each other by calls of Ray."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from antiphon.actors.address import Address
from antiphon.actors.blueprint import Blueprint, Started
from antiphon.actors.member_messages import Member
from antiphon.scheduler.request import Incarnation


@dataclass(frozen=True)
class Attachment:
    """What a frontend gets when it attaches. `address`: where its heartbeats go. `info`: what was
    chosen for each half."""

    address: Address
    blueprint: Blueprint
    members: list[Member]
    info: dict[str, Any]


@dataclass(frozen=True)
class Known:
    """What the process that started an engine knows when its supervisor has died. `started`: the
    workers' processes that it has started. `members`: as the supervisor told last."""

    started: Mapping[Incarnation, Started]
    members: list[Member]
    info: dict[str, Any]
