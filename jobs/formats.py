"""Shards as JSON lines, or as Parquet tables with the same columns."""

from collections.abc import Iterator
from itertools import islice
from typing import IO, Any, Protocol

import msgspec

from antiphon.config.errors import ConfigurationError, nearest
from antiphon.jobs.storage import Log, Storage

ROWS_OF_A_GROUP = 256  # a Parquet shard is converted by so many rows at a time


class Written(msgspec.Struct):
    """What resuming reads of a finished line."""

    line: int
    duration: float | None = None


class Format(Protocol):
    """How a shard's log becomes a file of the output folder."""

    suffix: str

    def publish(self, log: Log, storage: Storage, name: str) -> None:
        """Makes the log the file `name`, which appears in whole, and removes the log."""

    def written(self, storage: Storage, name: str) -> Iterator[Written]:
        """The lines of a shard. Raises an exception if the file is not complete."""


class JsonLines:
    suffix = ".jsonl"

    def publish(self, log: Log, storage: Storage, name: str) -> None:
        log.publish(name)

    def written(self, storage: Storage, name: str) -> Iterator[Written]:
        with storage.open(name) as file:
            yield from written_lines(file)


class Parquet:
    suffix = ".parquet"

    def __init__(self) -> None:
        """Raises ConfigurationError without pyarrow."""
        try:
            import pyarrow.parquet
        except ImportError:
            raise ConfigurationError(
                "--format parquet needs pyarrow: pip install 'antiphon[data]'"
            ) from None
        self._arrow, self._parquet = pyarrow, pyarrow.parquet

    def publish(self, log: Log, storage: Storage, name: str) -> None:
        schema = self._arrow.schema(columns(self._arrow))

        def convert(file: IO[bytes]) -> None:
            with self._parquet.ParquetWriter(file, schema) as writer:
                for lines in _groups(log.lines()):
                    rows = [flat(msgspec.json.decode(line)) for line in lines]
                    writer.write_table(self._arrow.Table.from_pylist(rows, schema=schema))

        log.checkpoint()
        storage.write(name, convert)
        log.remove()

    def written(self, storage: Storage, name: str) -> Iterator[Written]:
        with storage.open(name) as file:
            table = self._parquet.ParquetFile(file)
            for batch in table.iter_batches(columns=["line", "duration"]):
                pairs = (batch.column("line").to_pylist(), batch.column("duration").to_pylist())
                yield from (Written(*pair) for pair in zip(*pairs, strict=True))


def columns(arrow: Any) -> dict[str, Any]:
    """The types of the columns that `records.py` has. What has no fixed form
    (log-probabilities, fields) is JSON text. `arrow`: the module pyarrow."""
    text, number, whole = arrow.string(), arrow.float64(), arrow.int64()
    tokens = [("token_ids", arrow.list_(whole)), ("logprobs", text)]
    segment = arrow.struct([("start", number), ("end", number), ("text", text), *tokens])
    output = arrow.struct([("index", whole), ("text", text), ("finish_reason", text), *tokens])
    skipped = arrow.struct([("start", number), ("end", number), ("reason", text)])
    return {
        "line": whole,
        "id": text,
        "audio": text,
        "text": text,
        "language": text,
        "language_probability": number,
        "duration": number,
        "segments": arrow.list_(segment),
        "skipped": arrow.list_(skipped),
        "finish_reason": text,
        "outputs": arrow.list_(output),
        "fields": text,
    }


FORMATS: dict[str, type[JsonLines] | type[Parquet]] = {"jsonl": JsonLines, "parquet": Parquet}


def format_of(name: str) -> Format:
    """Raises ConfigurationError for an unknown format, or one whose package is missing."""
    if name not in FORMATS:
        raise ConfigurationError(f"unknown format '{name}'.{nearest(name, list(FORMATS))}")
    return FORMATS[name]()


def written_lines(lines: Iterator[bytes]) -> Iterator[Written]:
    """Of JSON lines. Raises msgspec.DecodeError."""
    decoder = msgspec.json.Decoder(Written)
    for line in lines:
        yield decoder.decode(line)


def _groups(lines: Iterator[bytes]) -> Iterator[list[bytes]]:
    while group := list(islice(lines, ROWS_OF_A_GROUP)):
        yield group


def flat(record: dict[str, Any]) -> dict[str, Any]:
    """A record with JSON text in the columns that have no fixed form."""
    row = dict(record)
    if row.get("id") is not None:
        row["id"] = str(row["id"])
    if row.get("fields") is not None:
        row["fields"] = _json(row["fields"])
    for name in ("segments", "outputs"):
        if row.get(name) is not None:
            row[name] = [
                {**entry, "logprobs": _json(entry["logprobs"])} if entry.get("logprobs") else entry
                for entry in row[name]
            ]
    return row


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
