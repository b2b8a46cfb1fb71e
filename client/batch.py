"""Many inputs: some at a time, each result saved as it comes, what is saved not asked again."""

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sized
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from antiphon.client.calls import Call
from antiphon.client.policy import check_count
from antiphon.client.results import Completion, Segment, Transcript, Word

Result = Transcript | Completion
Ask = Callable[[Any], Call[Any]]
Answer = Callable[[Call[Any]], Awaitable[Result]]
Progress = Callable[[int, int | None], object]


def drawn(total: int | None) -> Progress:
    """A bar on standard error, where tqdm is installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        return lambda done, in_all: None
    bar = tqdm(total=total)

    def show(done: int, in_all: int | None) -> None:
        bar.update(done - bar.n)
        if done == in_all:
            bar.close()

    return show


@dataclass(frozen=True)
class BatchItem:
    """One input of a batch, by its number. Either `result` or `error`. `resumed`: the result was
    saved by an earlier run."""

    index: int
    result: Result | None = None
    error: Exception | None = None
    resumed: bool = False


class Batch:
    """One run over `inputs`. `output`: the file of results, or None."""

    def __init__(
        self,
        inputs: Iterable[Any],
        concurrency: int,
        output: str | os.PathLike[str] | None,
        progress: Progress | bool | None,
    ) -> None:
        check_count("concurrency", concurrency, 1)
        if isinstance(inputs, (str, bytes, os.PathLike)):
            raise ValueError("give a list of inputs, not a single one")
        self._inputs, self._concurrency = inputs, concurrency
        self._path = None if output is None else Path(output)
        self._num_done = 0
        self._total = len(inputs) if isinstance(inputs, Sized) else None
        if isinstance(progress, bool):
            progress = drawn(self._total) if progress else None
        self._progress = progress

    async def run(self, ask: Ask, answer: Answer) -> AsyncGenerator[BatchItem, None]:
        """Items as they end. `ask` makes the request of an input, `answer` its result. Leaving the
        loop early cancels what is open."""
        saved = {} if self._path is None else _read(self._path)
        room = asyncio.Semaphore(self._concurrency)
        ended: asyncio.Queue[BatchItem | None] = asyncio.Queue(2 * self._concurrency)

        async def one(index: int, value: Any, log: IO[str] | None) -> BatchItem:
            call = ask(value)
            key = "" if log is None else call.identity(index)
            if key in saved:
                return BatchItem(index, saved[key], resumed=True)
            item = BatchItem(index, await answer(call))
            if log is not None:
                _save(log, key, item)
            return item

        async def end(index: int, value: Any, log: IO[str] | None) -> None:
            try:
                item = await one(index, value, log)
            except Exception as error:  # whatever an input is, the others go on
                item = BatchItem(index, error=error)
            finally:
                room.release()
            await ended.put(item)

        async def feed(log: IO[str] | None) -> None:
            async with asyncio.TaskGroup() as group:
                for index, value in enumerate(self._inputs):
                    await room.acquire()
                    group.create_task(end(index, value, log))
            await ended.put(None)

        file = nullcontext() if self._path is None else self._path.open("a", encoding="utf-8")
        with file as log:
            feeding = asyncio.create_task(feed(log))
            try:
                while (item := await self._next(ended, feeding)) is not None:
                    self._num_done += 1
                    if self._progress is not None:
                        self._progress(self._num_done, self._total)
                    yield item
            finally:
                feeding.cancel()
                await asyncio.wait([feeding])

    async def _next(
        self, ended: "asyncio.Queue[BatchItem | None]", feeding: "asyncio.Task[None]"
    ) -> BatchItem | None:
        """The next item; None behind the last. Raises what the iterator of inputs raised."""
        getting = asyncio.ensure_future(ended.get())
        try:
            await asyncio.wait([getting, feeding], return_when=asyncio.FIRST_COMPLETED)
            if not getting.done() and feeding.done() and ended.empty():
                _raise_alone(feeding)
            return await getting
        finally:
            getting.cancel()


def _raise_alone(feeding: "asyncio.Task[None]") -> None:
    """What it has failed with, without the group in which its tasks put it."""
    try:
        feeding.result()
    except ExceptionGroup as group:
        raise group.exceptions[0] from None


def _save(log: IO[str], key: str, item: BatchItem) -> None:
    """One line, written at once: what is there after a crash is whole, but for the last line."""
    assert item.result is not None
    kind = type(item.result).__name__
    entry = {"key": key, "index": item.index, "kind": kind, **asdict(item.result)}
    log.write(json.dumps(entry, ensure_ascii=False) + "\n")
    log.flush()


def _read(path: Path) -> dict[str, Result]:
    """The results that an earlier run saved, by identity."""
    results: dict[str, Result] = {}
    if not path.exists():
        return results
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:  # the last run ended inside a line
        with path.open("r+b") as file:
            file.truncate(len(whole))
    for line in whole.splitlines():
        try:
            entry = json.loads(line)
            key, kind = entry.pop("key"), entry.pop("kind")
            del entry["index"]
            if kind == "Completion":
                results[key] = Completion(**entry)
            else:
                results[key] = _transcript(entry)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no file of results: {error}") from None
    return results


def _transcript(entry: dict[str, Any]) -> Transcript:
    segments = [
        Segment(**{**segment, "words": _words(segment.get("words"))})
        for segment in entry["segments"]
    ]
    words = _words(entry.get("words")) or []
    return Transcript(**{**entry, "segments": segments, "words": words})


def _words(entries: list[dict[str, Any]] | None) -> list[Word] | None:
    return None if entries is None else [Word(**entry) for entry in entries]
