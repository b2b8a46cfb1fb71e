"""What a prompt is before its media are read, which takes memory: that must be free before."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from antiphon.config.errors import ImageError, VideoError
from antiphon.inputs.images.addresses import Content, fetched, is_fetched
from antiphon.inputs.images.limits import Fetching
from antiphon.inputs.prompts import Part

T = TypeVar("T")


@dataclass(frozen=True)
class Unread(Generic[T]):
    """`media`: of a prompt whose text is checked, in the forms that callers have. `read` makes of
    them what the engine takes. `measure`: an estimate of the bytes that `read` takes, from sizes
    that stand at the beginning of files; what is broken takes none, as `read` will report it."""

    media: Part
    read_media: Callable[[Part], T]
    measure: Callable[[Part], int]
    fetching: Fetching

    def read(self) -> T:
        """Raises InputError."""
        return self.read_media(self.media)

    def expected_bytes(self) -> int:
        """Before `read`, of what it takes, in bytes."""
        try:
            return self.measure(self.media)
        except Exception:  # a caller's own object may raise anything; `read` reports it
            return 0

    @property
    def addresses(self) -> list[str]:
        """That must be fetched before anything is known of the media behind them."""
        return [source for source in self._sources if is_fetched(source)]

    @property
    def fetched_bytes(self) -> int:
        return sum(len(one.content) for one in self._sources if isinstance(one, Content))

    @property
    def _sources(self) -> tuple[Any, ...]:
        return self.media.images + self.media.videos

    def fetched(self, address: str) -> "Unread[T]":
        """With the content in place of `address`. Raises ImageError, for a video VideoError."""
        is_image = any(_is(source, address) for source in self.media.images)
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
