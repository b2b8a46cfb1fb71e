"""A recording's windows, all at once: each is decoded independently of the others."""

import asyncio
from collections.abc import Awaitable, Callable

from antiphon.engine.transcribing.attempts import Decoded
from antiphon.engine.transcribing.windows import Window

Decode = Callable[[Window], Awaitable[Decoded]]
Take = Callable[[Window, Decoded], None]


async def decode_together(windows: list[Window], decode: Decode, take: Take) -> None:
    """`take` gets each window in their order, as soon as all before it are done. If one fails, the
    others are cancelled."""
    done: dict[int, Decoded] = {}
    taken = 0

    async def run(number: int) -> None:
        nonlocal taken
        done[number] = await decode(windows[number])
        while taken in done:
            take(windows[taken], done.pop(taken))
            taken += 1

    if len(windows) == 1:  # without a task of its own: saves turns of the loop
        return await run(0)
    tasks = [asyncio.create_task(run(number)) for number in range(len(windows))]
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:  # a window failed: the others are useless
            task.cancel()
        raise
