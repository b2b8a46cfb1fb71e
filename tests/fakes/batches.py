"""For tests of batches: an engine that answers at once, manifests, and what a folder holds."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from antiphon.engine.outputs import CompletionOutput, RequestOutput
from antiphon.jobs.batch import Batch
from antiphon.jobs.entries import Defaults
from antiphon.jobs.formats import format_of
from antiphon.jobs.identity import job, open_output
from antiphon.jobs.manifest import Manifest
from antiphon.jobs.meter import Meter
from antiphon.jobs.output import Output
from antiphon.jobs.work import Work


class EchoEngine:
    """Answers with the prompt. `open` counts the calls that run, `most` the largest number."""

    def __init__(self, before: Callable[[str], None] | None = None) -> None:
        self.open = self.most = self.calls = 0
        self.before = before

    async def generate(self, prompt: Any, params: Any = None, **options: Any) -> RequestOutput:
        self.calls += 1
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            await asyncio.sleep(0)
            if self.before is not None:
                self.before(prompt)
            completion = CompletionOutput(0, f"echo of {prompt}", [1, 2], "stop")
            return RequestOutput("1", [1], [completion])
        finally:
            self.open -= 1

    async def transcribe(self, audio: Any, **options: Any) -> Any:
        raise NotImplementedError


def write_manifest(path: Path, texts: Iterable[str]) -> Path:
    with path.open("w") as file:
        for number, text in enumerate(texts, 1):
            file.write(json.dumps({"text": text, "id": f"n{number}"}) + "\n")
    return path


def opened(
    manifest: Manifest, url: str, *, form: str = "jsonl", shard_lines: int = 10, **changes: Any
) -> Output:
    options = {"allow_changes": False, "retry_failed": False, **changes}
    settings = options.pop("settings", {})
    new = job(manifest.survey(), settings)
    return open_output(url, format_of(form), new, shard_lines=shard_lines, **options)


def run(
    manifest: Manifest, output: Output, engine: Any, *, in_flight: int = 8, **options: Any
) -> None:
    """All lines that are not done, to the end."""
    meter = Meter(0, len(output.done), output.counts.failed)

    async def main() -> None:
        work = Work(engine, None, manifest.folder)
        lines = manifest.lines(output.done)
        batch = Batch(
            lines, work.perform, output, meter, Defaults(False), in_flight=in_flight, **options
        )
        await batch.run()

    asyncio.run(main())
    output.finish({})


def results(folder: Path) -> dict[int, dict[str, Any]]:
    """The records in the finished shards, by line. Fails for a line that is there twice."""
    records: list[dict[str, Any]] = []
    for path in sorted(folder.glob("part-*")):
        if path.suffix == ".parquet":
            import pyarrow.parquet

            records += pyarrow.parquet.read_table(path).to_pylist()
        else:
            records += map(json.loads, path.read_text().splitlines())
    return once(records)


def errors(folder: Path) -> dict[int, dict[str, Any]]:
    return once(list(map(json.loads, (folder / "errors.jsonl").read_text().splitlines())))


def once(records: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    counts = Counter(record["line"] for record in records)
    assert [line for line, count in counts.items() if count > 1] == []
    return {record["line"]: record for record in records}
