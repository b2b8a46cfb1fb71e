"""The folder that a batch writes: finished shards, errors, and what resuming needs.

    part-00000.jsonl     finished shards (or .parquet)
    errors.jsonl         a line for each line of the manifest that failed
    summary.json         when all lines are done
    _antiphon/job.json   the manifest and the settings that these results belong to
    _antiphon/part-...   the log of a shard that is not finished

Every line of the manifest is in one shard, in one shard's log, or among the errors, or
it is still to do. Lines become done by one write to a log. A finished log becomes a
shard in whole; if a kill comes between the two, the log is still there and decides.
"""

import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from antiphon.jobs.formats import Format, Written, written_lines
from antiphon.jobs.line_set import LineSet
from antiphon.jobs.records import Record, encoded
from antiphon.jobs.storage import PRIVATE, Log, Storage

JOB, LOCK = f"{PRIVATE}/job.json", f"{PRIVATE}/lock"
ERRORS, SUMMARY = "errors.jsonl", "summary.json"
SHARD_BYTES = 128 << 20  # a shard ends with this many bytes of JSON, if not with its lines


@dataclass
class Counts:
    """Over all runs. `audio_seconds` of what succeeded."""

    succeeded: int = 0
    failed: int = 0
    audio_seconds: float = 0.0

    def add(self, duration: float | None) -> None:
        self.succeeded += 1
        self.audio_seconds += duration or 0.0


@dataclass
class Shard:
    """`log` collects lines until there are enough."""

    number: int
    log: Log
    lines: int = 0
    bytes: int = 0


class Output:
    """A folder that this process has locked. `add` and `fail` are quick and belong to
    one thread; `publish` and `checkpoint` may take long, and run in any."""

    def __init__(self, storage: Storage, form: Format, shard_lines: int) -> None:
        self.storage, self._format, self._shard_lines = storage, form, shard_lines
        self.done, self.counts = LineSet(), Counts()
        self._errors = storage.visible_log(ERRORS)
        self._shard: Shard | None = None
        self._next_number = 0
        self._publishing = threading.Lock()

    # ------------------------------------------------------------------ what is there from before

    def recover(self, retry_failed: bool) -> None:
        """Notes the lines that are done, and finishes what a kill has cut."""
        names = [name for name in self.storage.names("") if name.startswith("part-")]
        logs = {
            name.partition(".")[0]
            for name in self.storage.names(PRIVATE)
            if name.startswith("part-")
        }
        unfinished: list[Shard] = []
        for stem in sorted(logs):
            log = self.storage.log(f"{PRIVATE}/{stem}.jsonl")
            name = f"{stem}{self._format.suffix}"
            lines = list(written_lines(log.lines()))
            if name in names and {entry.line for entry in lines} <= self._lines_of(name):
                log.remove()
                continue
            if name in names:
                names.remove(name)  # cut while it was written: the log has all of it
            shard = Shard(_number(stem), log, len(lines))
            unfinished.append(shard)
            self._note(iter(lines))
        for name in names:
            self._note(self._format.written(self.storage, name))
        numbers = [_number(name) for name in names] + [shard.number for shard in unfinished]
        self._next_number = max(numbers, default=-1) + 1
        for shard in unfinished:
            if self._shard is None and 0 < shard.lines < self._shard_lines:
                self._shard = shard
            else:
                self.publish(shard)
        self._recover_errors(retry_failed)

    def _lines_of(self, name: str) -> set[int]:
        try:
            return {entry.line for entry in self._format.written(self.storage, name)}
        except Exception:  # whatever a parser says of a file that was cut
            return set()

    def _note(self, lines: Iterator[Written]) -> None:
        for entry in lines:
            self.done.add(entry.line)
            self.counts.add(entry.duration)

    def _recover_errors(self, retry_failed: bool) -> None:
        if retry_failed:
            self._errors.remove()
            self._errors = self.storage.visible_log(ERRORS)
        for entry in written_lines(self._errors.lines()):
            if entry.line not in self.done:
                self.done.add(entry.line)
                self.counts.failed += 1

    # ------------------------------------------------------------------ lines that become done

    def add(self, record: Record) -> Shard | None:
        """Returns the shard that this record has filled, for `publish`. Raises
        AntiphonError for a record that cannot be written, and OSError."""
        line = encoded(record)
        shard = self._shard or self._new_shard()
        shard.log.append(line)
        self.done.add(record["line"])
        self.counts.add(record.get("duration"))
        shard.lines += 1
        shard.bytes += len(line)
        if shard.lines < self._shard_lines and shard.bytes < SHARD_BYTES:
            return None
        self._shard = None
        return shard

    def fail(self, record: Record) -> None:
        self._errors.append(encoded(record))
        self.done.add(record["line"])
        self.counts.failed += 1

    def _new_shard(self) -> Shard:
        name = f"{PRIVATE}/part-{self._next_number:05d}.jsonl"
        self._shard = Shard(self._next_number, self.storage.log(name))
        self._next_number += 1
        return self._shard

    # ------------------------------------------------------------------ to disk

    def publish(self, shard: Shard) -> None:
        with self._publishing:
            if shard.lines:
                name = f"part-{shard.number:05d}{self._format.suffix}"
                self._format.publish(shard.log, self.storage, name)
            else:
                shard.log.remove()

    def checkpoint(self) -> None:
        """After it, no line that is done will be done again, even if the machine stops."""
        with self._publishing:  # the shard's log is not closed meanwhile
            if (shard := self._shard) is not None:
                shard.log.checkpoint()
        self._errors.checkpoint()

    def save(self) -> None:
        """As `checkpoint`, and lets readers see the errors: when a run ends in any way."""
        self.checkpoint()
        self._errors.show()

    @property
    def finished(self) -> bool:
        """Whether `finish` was called for what the folder holds."""
        return self._shard is None and self.storage.exists(SUMMARY)

    def begin(self) -> None:
        """There are lines to do: an earlier summary no longer holds."""
        if self.storage.exists(SUMMARY):
            self.storage.remove(SUMMARY)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """All lines are done: publishes the last shard."""
        if self._shard is not None:
            shard, self._shard = self._shard, None
            self.publish(shard)
        self._errors.show()
        content = json.dumps(summary, indent=2, ensure_ascii=False).encode() + b"\n"
        self.storage.write(SUMMARY, lambda file: file.write(content))

    def close(self) -> None:
        if self._shard is not None:
            self._shard.log.close()
        self._errors.close()
        self.storage.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _number(name: str) -> int:
    return int(name.partition(".")[0].removeprefix("part-"))
