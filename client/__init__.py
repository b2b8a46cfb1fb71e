"""Clients of an Antiphon server, or of any other with OpenAI's API. Needs httpx alone."""

from antiphon.client.asynchronous import AsyncClient
from antiphon.client.batch import BatchItem
from antiphon.client.errors import (
    AuthenticationError,
    ClientError,
    ConnectionFailed,
    RequestRejected,
    ServerFailed,
    TooBusy,
)
from antiphon.client.results import Completion, Model, Segment, Transcript, Word
from antiphon.client.synchronous import Client

__all__ = [
    "AsyncClient",
    "AuthenticationError",
    "BatchItem",
    "Client",
    "ClientError",
    "Completion",
    "ConnectionFailed",
    "Model",
    "RequestRejected",
    "Segment",
    "ServerFailed",
    "TooBusy",
    "Transcript",
    "Word",
]
