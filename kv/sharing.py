"""What other processes are told of an arena, so that encoders write hidden states into it."""

import logging

from antiphon.config.errors import ConfigurationError, describe
from antiphon.config.worker_options import StateTransport
from antiphon.kv.arena import StateArena
from antiphon.kv.transports.mapped import Handle
from antiphon.kv.transports.mapping import MappingError
from antiphon.kv.transports.nixl_agent import NixlError

logger = logging.getLogger(__name__)


def share(arena: StateArena, transport: StateTransport) -> Handle | None:
    """Of an arena that holds nothing yet. None where `transport` needs no arena, or, with a line in
    the log, where its memory cannot be mapped.

    Raises ConfigurationError where NIXL is asked for and cannot be used here.
    """
    if transport == "messages" or not len(arena.states):
        return None
    if transport == "nixl":
        try:
            return arena.register()
        except NixlError as error:
            raise ConfigurationError(f"state_transport='nixl': {describe(error)}") from error
    try:
        return arena.export()
    except MappingError as error:
        logger.warning("hidden states come by way of the host: %s", error)
        return None
