"""Texts that stand for a file of an image or a video: data URIs and addresses."""

import base64
from dataclasses import dataclass
from typing import Any

from antiphon.config.errors import ImageError, VideoError
from antiphon.inputs.foreign_errors import foreign_errors_as
from antiphon.inputs.images.limits import Fetching
from antiphon.inputs.images.remote import fetch

SCHEMES = ("data:", "https://", "http://")
LONGEST_SCHEME = 16  # letters, "://" with them: what has it further behind is a path


@dataclass(frozen=True, eq=False)
class Content:
    """What is behind an address or a data URI; `name`: what to call it."""

    content: bytes
    name: str


def is_fetched(source: Any) -> bool:
    """Whether `source` is an address, whose content must be fetched before anything is known."""
    return isinstance(source, str) and source[:LONGEST_SCHEME].lower().startswith(SCHEMES[1:])


def fetched(address: str, fetching: Fetching) -> Content:
    """Raises ImageError."""
    with foreign_errors_as(ImageError, "an address"):  # threads that cannot be started, and others
        return Content(fetch(address, fetching), "the file behind the address")


def is_address(text: str) -> bool:
    """Whether it is of a scheme that is read, in letters of any case, and so never a path."""
    return text[:LONGEST_SCHEME].lower().startswith(SCHEMES)


def content_of(
    text: str, fetching: Fetching, example: str, error: type[ImageError | VideoError]
) -> Content | None:
    """What is behind a data URI or an address; None for a path. `example`: the type that a data URI
    has. Raises `error`, and ImageError for what can't be fetched."""
    if is_data_uri(text):
        return data_content(text, example, error)
    begin = text[:LONGEST_SCHEME].lower()
    if begin.startswith("file://"):
        raise error("file:// addresses are not read: give the path")
    if "://" in begin:
        return fetched(text, fetching)
    return None


def is_data_uri(text: str) -> bool:
    return text[: len(SCHEMES[0])].lower() == SCHEMES[0]


def data_content(uri: str, example: str, error: type[ImageError | VideoError]) -> Content:
    """What a data URI holds. Raises `error`."""
    head, comma, content = uri.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        kind = "an image" if error is ImageError else "a video"
        raise error(f"a data URI of {kind} is 'data:{example};base64,...', not {head[:60]!r}")
    try:
        return Content(base64.b64decode(content, validate=True), "the data URI")
    except ValueError as wrong:  # of binascii, and for what is no ASCII
        raise error(f"the data URI is no base64: {wrong}") from None
