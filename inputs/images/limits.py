"""What an image may be, where it may be fetched from, and how many a prompt may have."""

from dataclasses import dataclass
from typing import Self

import torch

from antiphon.config.options import ModelOptions, Resizing

MAX_PIXELS = 80_000_000  # of one image: 240 MB as 8-bit colors
MAX_FILE_BYTES = 64 << 20
ANY = "*"


@dataclass(frozen=True)
class Fetching:
    """Which addresses of images are fetched. `hosts`: their names in small letters, or `ANY`; none:
    nothing is fetched. `private`: also addresses of this machine and of its network. `seconds`: for
    one image, all redirects included."""

    hosts: frozenset[str] = frozenset()
    private: bool = False
    max_bytes: int = MAX_FILE_BYTES
    seconds: float = 10.0
    redirects: int = 3

    def allows(self, host: str) -> bool:
        """Names must be equal: those below a name are others."""
        return ANY in self.hosts or host.lower().rstrip(".") in self.hosts


NOTHING_FETCHED = Fetching()


@dataclass(frozen=True)
class ImageLimits:
    """`per_prompt`: images; None: as many as by default. `resizing`: where it is done; auto: on the
    device, where the checkpoint allows it and a picture then has no more bytes."""

    per_prompt: int | None = None
    fetching: Fetching = NOTHING_FETCHED
    resizing: Resizing = "host"

    @classmethod
    def of(cls, options: ModelOptions) -> Self:
        names = (options.allowed_media_domains or "").split(",")
        hosts = frozenset(name.strip().lower().rstrip(".") for name in names) - {""}
        fetching = Fetching(hosts, private=options.allow_private_media)
        resizing = options.image_resizing
        sees_gpu = options.device != "cpu" and torch.cuda.is_available()
        if not may_be_on_device(resizing, sees_gpu):
            resizing = "host"
        return cls(options.limit_images_per_prompt, fetching, resizing)


def may_be_on_device(resizing: Resizing, has_gpu: bool) -> bool:
    """Whether pictures may be resized where the encoder is, if the checkpoint allows it."""
    return resizing == "device" or (resizing == "auto" and has_gpu)


DEFAULT_LIMITS = ImageLimits()
