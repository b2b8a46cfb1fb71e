"""Settings of OpenMP that must be made before torch is loaded."""

import os
from collections.abc import MutableMapping

DECIDED_BY = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def let_idle_threads_sleep(environment: MutableMapping[str, str] = os.environ) -> None:
    """Lets threads of a parallel region sleep while they wait for each other, unless
    `environment` decides otherwise.

    By default they spin. A decoder step has about a hundred regions, in two OpenMP
    runtimes (torch ships one, Numba uses the system's). When anything else wants a
    core, one thread spins on it while the thread it waits for cannot run: eleven
    recordings that take 1.8 s on two idle cores took over a minute beside one busy
    process, and 4 s with sleeping threads (2.0 s on idle cores).

    Call it before the first import of torch: OpenMP reads its settings when its library
    is loaded. Later calls still reach Numba's runtime.
    """
    if not any(name in environment for name in DECIDED_BY):
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
