"""Sound from wherever a program has it, as an asynchronous stream."""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from typing import Any

from antiphon.config.errors import AudioError
from antiphon.config.foreign import shown

AHEAD = 4  # chunks that are taken from a program's iterator before they are needed


def checked_chunks(chunks: Any) -> Any:
    """Raises AudioError for what can't be a stream of samples."""
    if isinstance(chunks, AsyncIterable):
        return chunks
    if isinstance(chunks, (str, bytes, bytearray)) or not isinstance(chunks, Iterable):
        raise AudioError(
            f"live() takes an iterator of chunks of samples, not {shown(chunks)}: "
            "transcribe() takes whole recordings"
        )
    return chunks


async def stream_of(chunks: AsyncIterable[Any] | Iterable[Any]) -> AsyncGenerator[Any, None]:
    """What `chunks` gives. One that blocks (a microphone) is read in a thread of its own."""
    if isinstance(chunks, AsyncIterable):
        async for chunk in chunks:
            yield chunk
        return
    loop, room = asyncio.get_running_loop(), threading.Semaphore(AHEAD)
    arrived: asyncio.Queue[tuple[Any, BaseException | None, bool]] = asyncio.Queue()
    left = threading.Event()

    def put(chunk: Any, error: BaseException | None, more: bool) -> None:
        loop.call_soon_threadsafe(arrived.put_nowait, (chunk, error, more))

    def read() -> None:
        try:
            for chunk in chunks:
                room.acquire()
                if left.is_set():
                    return
                put(chunk, None, True)
            put(None, None, False)
        except BaseException as error:  # the program's own: it is raised where updates are read
            if not left.is_set():
                put(None, error, False)

    threading.Thread(target=read, name="antiphon-live", daemon=True).start()
    try:
        while True:
            chunk, error, more = await arrived.get()
            room.release()
            if error is not None:
                raise error
            if not more:
                return
            yield chunk
    finally:
        left.set()
        room.release()
