"""What other processes are told of an arena, so that encoders write hidden states into it."""

import logging
from typing import NamedTuple

from antiphon.config.errors import ConfigurationError, describe
from antiphon.config.worker_options import StateTransport
from antiphon.kv.arena import StateArena
from antiphon.kv.transports.mapped import Handle
from antiphon.kv.transports.mapping import MappingError
from antiphon.kv.transports.nixl_agent import NixlError
from antiphon.kv.transports.nixl_handle import NixlHandle

logger = logging.getLogger(__name__)


class Shares(NamedTuple):
    """`near`: for processes of this node. `far`: for those of all nodes, in place of it."""

    near: Handle | None = None
    far: NixlHandle | None = None


def share(arena: StateArena, transport: StateTransport) -> Shares:
    """Of an arena that holds nothing yet. Where one way is not to be had, the log says why.

    Raises ConfigurationError where NIXL is asked for and cannot be used here.
    """
    if transport == "messages" or not len(arena.states):
        return Shares()
    if transport == "nixl":
        try:
            return Shares(far=arena.register())
        except NixlError as error:
            raise ConfigurationError(f"state_transport='nixl': {describe(error)}") from error
    try:
        return Shares(arena.export())
    except MappingError as error:
        logger.warning("hidden states come by way of the host: %s", error)
        return Shares()
