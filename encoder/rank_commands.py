"""What the leader of an encoder replica tells its other ranks."""

from collections.abc import Callable

import msgspec
import numpy as np


class EncodeBatch(msgspec.Struct, frozen=True, eq=False, array_like=True):
    """Take part in one forward of these inputs: int32 token ids or float32 samples, [n] each.

    The leader has checked them: they fail on no rank, or the replica ends.
    """

    inputs: tuple[np.ndarray, ...]


Followers = Callable[[EncodeBatch], None]


def no_followers(command: EncodeBatch) -> None:
    raise AssertionError("a replica of one rank sent a batch to others")
