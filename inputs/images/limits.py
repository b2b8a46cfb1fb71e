"""What an image may be, and where it may be fetched from."""

from dataclasses import dataclass

MAX_PIXELS = 80_000_000  # of one image: 240 MB as 8-bit colors
MAX_FILE_BYTES = 64 << 20


@dataclass(frozen=True)
class Fetching:
    """Which addresses of images are fetched. `private`: also those of this machine and of its
    network. `seconds`: for one image, all redirects included."""

    allowed: bool = False
    private: bool = False
    max_bytes: int = MAX_FILE_BYTES
    seconds: float = 10.0
    redirects: int = 3


NOTHING_FETCHED = Fetching()
