"""Messages as frames: a head in msgpack, and arrays as they lie in memory. No pickle.

    frame 0        token | number of head frames | head: a list of a message's type and fields
    frames 1 ..    the head's other pieces, if it is long; then the pieces of each array

An array in the head is an extension that names its dtype, its shape and its first frame; short
arrays lie in the extension itself. No frame is larger than MAX_FRAME_BYTES, so that a receiver can
refuse larger ones: what strangers send is held in memory until it is looked at.
"""

import dataclasses
import math
import operator
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import torch

from antiphon.actors import messages
from antiphon.actors.frames import (
    MAX_FRAME_BYTES,
    PREFIX,
    TOKEN_BYTES,
    Buffer,
    MessageError,
    addressed,
    split_frames,
)
from antiphon.config.errors import describe
from antiphon.config.sampling import SamplingParams
from antiphon.scheduler.request import Request

MAX_MESSAGE_BYTES = 2 << 30  # an encoder batch of 64k tokens of a model 8192 wide, in float32
SHORT_BYTES = 512  # a frame of its own costs as much as copying twice this
COMPARED_BYTES = 64 << 10  # arrays up to this size are compared by content, larger ones by place
NUMPY_EXTENSION, TORCH_EXTENSION = 1, 2
NUMBER_KINDS = "biufc"  # of numpy's dtypes: flags, whole numbers, floats, complex numbers


# ---------------------------------------------------------------------- requests
# Their dataclass is encoded as a list, without the names of its fields. Sampling parameters are the
# values that were set: their constructor makes the rest, and checks them.


def _wire_hint(hint: Any) -> Any:
    return dict[str, Any] if hint is SamplingParams else hint


_HINTS = typing.get_type_hints(Request)
_NAMES = [field.name for field in dataclasses.fields(Request)]
_PARAMS = _NAMES.index("params")
_WireRequest = msgspec.defstruct(
    "_WireRequest", [(name, _wire_hint(_HINTS[name])) for name in _NAMES], array_like=True
)
_values_of: Any = operator.attrgetter(*_NAMES)


class _Submit(msgspec.Struct, array_like=True, tag="Submit"):
    """`Submit`, whose requests are decoded one by one: a bad one must not harm the others."""

    requests: list[msgspec.Raw]


def _to_wire(request: Request) -> Any:
    values = list(_values_of(request))
    params = request.params
    values[_PARAMS] = {name: getattr(params, name) for name in params.fields_set}
    return _WireRequest(*values)


def _from_wire(wire: Any) -> Request:
    values = list(_values_of(wire))
    values[_PARAMS] = SamplingParams(**values[_PARAMS])
    return Request(*values)


# ---------------------------------------------------------------------- encoding


class MessageEncoder:
    """For one thread at a time. `token` begins each message."""

    def __init__(self, token: bytes) -> None:
        assert len(token) == TOKEN_BYTES
        self._token = token
        self._encoder = msgspec.msgpack.Encoder(enc_hook=self._extension)
        self._frames: list[Buffer] = []
        self._extensions: dict[Any, msgspec.msgpack.Ext] = {}  # of arrays in this message

    def encode(self, message: messages.Message) -> list[Buffer]:
        """The frames of a message. They share the memory of its long arrays.

        Raises MessageError for a value of a type that cannot travel, and for a message over
        MAX_MESSAGE_BYTES.
        """
        self._frames, self._extensions = [], {}
        try:
            return self._encode(message)
        except (TypeError, ValueError, OverflowError, NotImplementedError) as error:
            raise MessageError(f"cannot be sent: {describe(error)}") from error
        finally:
            self._frames, self._extensions = [], {}  # holds no array longer than needed

    def _encode(self, message: messages.Message) -> list[Buffer]:
        wire: Any = message
        if isinstance(message, messages.Submit):
            wire = ["Submit", [_to_wire(request) for request in message.requests]]
        head = self._encoder.encode(wire)
        size = len(head) + sum(len(frame) for frame in self._frames)
        if size > MAX_MESSAGE_BYTES:
            raise ValueError(f"{size} bytes are over the {MAX_MESSAGE_BYTES} of one message")
        pieces = split_frames(memoryview(head), MAX_FRAME_BYTES - PREFIX.size)
        return [*addressed(self._token, pieces), *self._frames]

    def _extension(self, value: Any) -> Any:
        """msgspec calls it for what is not plain data."""
        if isinstance(value, np.ndarray):
            if value.dtype.kind not in NUMBER_KINDS:
                raise TypeError(f"an array of {value.dtype} is not of numbers")
            array = np.ascontiguousarray(value).reshape(value.shape)
            return self._array(NUMPY_EXTENSION, array.dtype.str, array)
        if isinstance(value, torch.Tensor):
            host = value.detach().to("cpu").contiguous()
            data = host.reshape(-1).view(torch.uint8).numpy()
            return self._array(TORCH_EXTENSION, str(host.dtype), data, tuple(host.shape))
        if isinstance(value, torch.cuda.Event):  # a tensor that is sent has been computed
            return None
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, Mapping):  # those that are no dict
            return dict(value)
        raise TypeError(f"a value of type {type(value).__name__}")

    def _array(
        self, code: int, dtype: str, array: np.ndarray, shape: tuple[int, ...] | None = None
    ) -> msgspec.msgpack.Ext:
        shape = array.shape if shape is None else shape
        if array.nbytes <= SHORT_BYTES:
            return _described(code, dtype, shape, array.tobytes())
        content = (
            array.tobytes() if array.nbytes <= COMPARED_BYTES else array.__array_interface__["data"]
        )
        identity = (code, dtype, shape, content)
        if (extension := self._extensions.get(identity)) is None:
            extension = _described(code, dtype, shape, len(self._frames))
            self._extensions[identity] = extension
            data = array.reshape(-1).view(np.uint8).data
            self._frames += split_frames(data, MAX_FRAME_BYTES)
        return extension


def _described(
    code: int, dtype: str, shape: tuple[int, ...], place: bytes | int
) -> msgspec.msgpack.Ext:
    return msgspec.msgpack.Ext(code, msgspec.msgpack.encode((dtype, shape, place)))


# ---------------------------------------------------------------------- decoding


class _Description(typing.NamedTuple):
    dtype: str
    shape: tuple[int, ...]
    place: bytes | int  # the content, or the number of its first frame


class MessageDecoder:
    """For one thread at a time."""

    def __init__(self) -> None:
        kinds: Any = typing.Union[tuple(_message_types())]  # noqa: UP007
        self._head = msgspec.msgpack.Decoder(kinds, ext_hook=self._array)
        self._request = msgspec.msgpack.Decoder(_WireRequest, ext_hook=self._array)
        self._description = msgspec.msgpack.Decoder(_Description)
        self._frames: Sequence[memoryview] = []

    def decode(self, frames: Sequence[memoryview]) -> list[messages.Message]:
        """The message in these frames. A request that cannot be decoded is replaced by an
        `Unreadable`. Arrays share the frames' memory. Raises MessageError."""
        try:
            _, count = PREFIX.unpack_from(frames[0])
            head = frames[0][PREFIX.size :]
            if count > 1:
                head = memoryview(b"".join([head, *frames[1:count]]))
            self._frames = frames[count:]
            message = self._head.decode(head)
            return self._requests(message) if isinstance(message, _Submit) else [message]
        except Exception as error:  # of msgspec, struct, numpy or torch
            raise MessageError(f"no message: {describe(error)}") from error
        finally:
            self._frames = []

    def _requests(self, message: _Submit) -> list[messages.Message]:
        requests: list[Request] = []
        unreadable: list[messages.Message] = []
        for raw in message.requests:
            try:
                requests.append(_from_wire(self._request.decode(raw)))
            except Exception as error:  # of msgspec, or what the parameters' constructor raises
                unreadable.append(_unreadable(raw, error))
        return [messages.Submit(requests), *unreadable] if requests else unreadable

    def _array(self, code: int, data: memoryview) -> Any:
        description = self._description.decode(data)
        if code == NUMPY_EXTENSION:
            dtype = np.dtype(description.dtype)
            if dtype.kind not in NUMBER_KINDS:
                raise ValueError(f"an array of {dtype}")
            content = self._content(description, dtype.itemsize)
            return content.view(dtype).reshape(description.shape)
        if code == TORCH_EXTENSION:
            tensor_dtype = getattr(torch, description.dtype.removeprefix("torch."))
            if not isinstance(tensor_dtype, torch.dtype):
                raise ValueError(f"a tensor of {description.dtype}")
            content = self._content(description, tensor_dtype.itemsize)
            return torch.from_numpy(content).view(tensor_dtype).reshape(description.shape)
        raise ValueError(f"extension {code}")

    def _content(self, description: _Description, itemsize: int) -> np.ndarray:
        """The bytes of an array [bytes], writeable and aligned."""
        size = math.prod(description.shape) * itemsize
        if isinstance(description.place, bytes):
            return _sized(np.frombuffer(bytearray(description.place), np.uint8), size)
        pieces = [np.frombuffer(self._frames[description.place], np.uint8)]
        left = size - len(pieces[0])
        while left > 0:
            pieces.append(np.frombuffer(self._frames[description.place + len(pieces)], np.uint8))
            left -= len(pieces[-1])
        single = pieces[0]
        is_usable = single.flags.writeable and single.ctypes.data % 16 == 0
        return _sized(single if len(pieces) == 1 and is_usable else np.concatenate(pieces), size)


def _sized(content: np.ndarray, size: int) -> np.ndarray:
    if len(content) != size:
        raise ValueError(f"{len(content)} bytes where {size} were announced")
    return content


def _message_types() -> list[type]:
    kinds = [kind for kind in typing.get_args(messages.Message) if kind is not messages.Submit]
    return [*kinds, _Submit]


def _unreadable(raw: msgspec.Raw, error: Exception) -> messages.Message:
    """Raises what msgspec raises if there is not even an id."""
    id_type = typing.get_type_hints(messages.Unreadable)["request_id"]
    request_id = msgspec.msgpack.decode(raw, ext_hook=lambda code, data: None)[0]
    sentence = f"cannot be read: {describe(error)}"
    return messages.Unreadable(msgspec.convert(request_id, id_type), sentence)
