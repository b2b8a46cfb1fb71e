"""What must be said to OpenMP before torch is loaded."""

import os
from collections.abc import MutableMapping

DECIDED_BY = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def let_idle_threads_sleep(environment: MutableMapping[str, str] = os.environ) -> None:
    """Threads of a parallel region that wait for each other sleep, unless the environment says otherwise.

    By default they spin. A decoder step has about a hundred regions, in two OpenMP runtimes (torch ships
    one, Numba uses the system's). As soon as anything else wants a core, a thread spins there while the one
    it waits for cannot run: eleven recordings that take 1.8 s on two idle cores took over a minute
    beside one busy process, and 4 s with threads that sleep (2.0 s on idle cores).

    OpenMP reads its settings when its library is loaded: before the first import of torch. Later calls still
    reach Numba's.
    """
    if not any(name in environment for name in DECIDED_BY):
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
