"""How many random examples are tried: a quarter on `make test`, all of them in CI."""

import os
from typing import Any

from hypothesis import settings

ALL = os.environ.get("ANTIPHON_EXAMPLES") == "all"


def share(count: int) -> int:
    """So many of `count`."""
    return count if ALL else -(-count // 4)


def examples(count: int, **others: Any) -> settings:
    """hypothesis' settings for `count` examples, without a limit for the time of each."""
    return settings(max_examples=share(count), deadline=None, **others)
