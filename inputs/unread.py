"""What a prompt is before its media are read, which takes memory: that must be free before."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Generic, TypeVar

from antiphon.config.errors import ImageError, PromptError, VideoError
from antiphon.inputs.foreign_errors import foreign_errors_as
from antiphon.inputs.images.addresses import (
    Content,
    data_content,
    fetched,
    is_data_uri,
    is_fetched,
)
from antiphon.inputs.images.limits import Fetching
from antiphon.inputs.numbered import numbered
from antiphon.inputs.prompts import Part

T = TypeVar("T")


def begun(
    media: Part,
    make: Callable[[Part], T],
    measure: Callable[[Part], int],
    fetching: Fetching,
    subject: str,
) -> "T | Unread[T]":
    """What `make` makes of a prompt that is checked: at once where it has no media. Raises what
    `make` does, and PromptError, which names the `subject`, for errors of other libraries.
    VideoError for a data URI of a video that is no base64."""

    def read(media: Part) -> T:
        with foreign_errors_as(PromptError, subject):
            return make(media)

    return Unread(_unpacked(media), read, measure, fetching) if media.media else read(media)


def _unpacked(media: Part) -> Part:
    """With the contents of data URIs of videos, which are measured and read: once, not twice."""
    videos = list[Any]()
    for number, source in enumerate(media.videos, 1):
        with numbered("video", number, len(media.videos)):
            is_data = isinstance(source, str) and is_data_uri(source)
            videos.append(data_content(source, "video/mp4", VideoError) if is_data else source)
    return replace(media, videos=tuple(videos))


@dataclass(frozen=True)
class Unread(Generic[T]):
    """`media`: of a prompt whose text is checked, in the forms that callers have. `read_media`
    makes of them what the engine takes. `measure`: an estimate of the bytes that this takes, from
    sizes that stand at the beginning of files."""

    media: Part
    read_media: Callable[[Part], T]
    measure: Callable[[Part], int]
    fetching: Fetching

    def read(self) -> T:
        """Raises InputError."""
        return self.read_media(self.media)

    def expected_bytes(self) -> int:
        """Of what `read` will take; 0 for what is broken, which `read` will report. May read
        beginnings of files, the first time that it is called."""
        return self._expected_bytes

    @cached_property
    def _expected_bytes(self) -> int:
        try:
            return self.measure(self.media)
        except Exception:  # a caller's own object may raise anything
            return 0

    @property
    def addresses(self) -> list[str]:
        """That must be fetched before anything is known of the media behind them."""
        return list(dict.fromkeys(filter(is_fetched, self._sources)))

    @property
    def fetched_bytes(self) -> int:
        return sum(len(one.content) for one in self._sources if isinstance(one, Content))

    @property
    def _sources(self) -> tuple[Any, ...]:
        return self.media.images + self.media.videos

    def fetched(self, address: str) -> "Unread[T]":
        """With the content in place of `address`. Raises ImageError, for a video VideoError."""
        is_image = any(_is(source, address) for source in self.media.images)
        kind, of_kind = ("image", self.media.images) if is_image else ("video", self.media.videos)
        number = next(n for n, source in enumerate(of_kind, 1) if _is(source, address))
        with numbered(kind, number, len(of_kind)):
            try:
                content = fetched(address, self.fetching)
            except ImageError as error:
                if is_image:
                    raise
                raise VideoError(str(error)) from error
        images, videos = (
            tuple(content if _is(source, address) else source for source in sources)
            for sources in (self.media.images, self.media.videos)
        )
        return replace(self, media=replace(self.media, images=images, videos=videos))


def _is(source: Any, address: str) -> bool:
    return isinstance(source, str) and source == address
