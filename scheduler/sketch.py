"""Which content a worker holds, in four bytes a key, for its heartbeats.

Two keys may share a fingerprint (one in four billion pairs): a request then goes to a
worker that has to encode its input after all. Nothing else depends on a sketch.
"""

import zlib
from collections.abc import Iterable
from itertools import islice

import numpy as np

MOST_KEYS = 4096  # in one sketch: 16 KB


def fingerprint(key: str) -> int:
    """Of a content key."""
    return zlib.crc32(key.encode())


def sketch(keys: Iterable[str]) -> bytes:
    """Of at most MOST_KEYS of `keys`, the first ones."""
    prints = [fingerprint(key) for key in islice(keys, MOST_KEYS)]
    return np.array(prints, "<u4").tobytes()


def fingerprints(held: bytes) -> frozenset[int]:
    """Those in a sketch."""
    return frozenset(np.frombuffer(held, "<u4").tolist())
