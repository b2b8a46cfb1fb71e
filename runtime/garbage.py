"""Python's garbage collector in processes of our own: workers and commands.

A full collection visits every object and stops all threads meanwhile. What is imported
makes a quarter of a million objects: over 0.1 s on an idle core. Requests in flight
bring full collections about, so a burst of some hundred requests often met one in its
worker, one in its caller, or both. The engine leaves the collector of a user's process
alone.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


def freeze_heap() -> None:
    """Exempts all objects of this process from later collections: cycles among them stay for good.

    Collects first, so that nothing is kept that only waits for its collection.
    """
    gc.collect()
    gc.freeze()


@contextmanager
def frozen_heap() -> Iterator[None]:
    """Inside, the objects that exist now are exempt from collections."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
