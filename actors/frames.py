"""What the frames of every message begin with, and how the messages about members become frames.

All other messages are the business of `actors/wire.py`, which needs torch.
"""

import struct
from collections.abc import Sequence
from typing import Protocol, TypeVar

import msgspec

from antiphon.actors.member_messages import Heartbeat, Members
from antiphon.config.errors import AntiphonError

TOKEN_BYTES = 16
MAX_FRAME_BYTES = 4 << 20  # holds 60 s of sound at 16 kHz: inputs travel in one piece
PREFIX = struct.Struct(f"<{TOKEN_BYTES}sI")  # token, number of frames of the head

Buffer = bytes | bytearray | memoryview
Sent = TypeVar("Sent", contravariant=True)
Received = TypeVar("Received", covariant=True)


class MessageError(AntiphonError):
    """A message cannot be encoded, or its frames are no message."""


def split_frames(data: memoryview, longest: int) -> list[memoryview]:
    """Pieces of at most `longest` bytes; at least one, which may be empty."""
    return [data[first : first + longest] for first in range(0, max(1, len(data)), longest)]


def addressed(token: bytes, pieces: Sequence[Buffer]) -> list[Buffer]:
    """`pieces` of a message as frames for the receiver that has `token`."""
    return [PREFIX.pack(token, len(pieces)) + pieces[0], *pieces[1:]]


class Encoder(Protocol[Sent]):
    """Of the messages for one receiver, whose token begins each."""

    def encode(self, message: Sent) -> Sequence[Buffer]:
        """The frames of a message. Raises MessageError."""


class Decoder(Protocol[Received]):
    def decode(self, frames: Sequence[memoryview]) -> Sequence[Received]:
        """The messages in these frames. Raises MessageError."""


class MemberEncoder:
    """Of heartbeats, and of what the supervisor sends to frontends."""

    def __init__(self, token: bytes) -> None:
        self._prefix = PREFIX.pack(token, 1)

    def encode(self, message: Members | Heartbeat) -> list[Buffer]:
        return [self._prefix + msgspec.msgpack.encode(message)]


class HeartbeatDecoder:
    """Of what the supervisor receives from workers."""

    def __init__(self) -> None:
        self._decoder = msgspec.msgpack.Decoder(Heartbeat)

    def decode(self, frames: Sequence[memoryview]) -> list[Heartbeat]:
        try:
            return [self._decoder.decode(frames[0][PREFIX.size :])]
        except msgspec.DecodeError as error:
            raise MessageError(f"no heartbeat: {error}") from error


class AddressEncoder:
    """Makes the pieces of `RankEncoder` a message for the receiver that has `token`."""

    def __init__(self, token: bytes) -> None:
        self._token = token

    def encode(self, message: Sequence[Buffer]) -> list[Buffer]:
        return addressed(self._token, message)
