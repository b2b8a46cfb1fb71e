"""The loop of a batch: how much is open at a time, and what ends it."""

import asyncio
import io
import os
import wave
from pathlib import Path
from typing import Any

import batches
import fsspec
import psutil
import pytest
from batches import EchoEngine, opened

from antiphon.config.errors import AudioError, EngineDeadError, RequestFailed
from antiphon.engine.outputs import Transcription
from antiphon.jobs.batch import TooManyFailed
from antiphon.jobs.entries import Defaults, Entry
from antiphon.jobs.manifest import Manifest
from antiphon.jobs.work import Work

MANY = 200_000
RATE = 16_000


@pytest.mark.slow
def test_memory_does_not_grow_with_the_manifest(tmp_path: Path) -> None:
    """A list of 200,000 lines would take 50 MB, one of their results as much again."""
    path = tmp_path / "m.jsonl"
    filler = "x" * 150
    with path.open("w") as file:
        for number in range(MANY):
            file.write(f'{{"text": "{number}", "remark": "{filler}"}}\n')
    process, sizes = psutil.Process(), []

    def measure(prompt: str) -> None:
        if int(prompt) % 10_000 == 5_000:
            sizes.append(process.memory_info().rss)

    manifest, engine = Manifest(str(path)), EchoEngine(measure)
    output = opened(manifest, str(tmp_path / "out"), shard_lines=50_000)
    batches.run(manifest, output, engine, in_flight=64)
    assert engine.most <= 64
    assert engine.calls == MANY
    assert len(sizes) == 20
    assert max(sizes) - sizes[0] < 16 << 20
    shards = sorted((tmp_path / "out").glob("part-*"))
    assert len(shards) == 4
    assert set(batches.results(tmp_path / "out")) == set(range(1, MANY + 1))


def test_bad_lines_never_stop_it(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(
        b'{"text": "a", "id": 1}\n\xff\xfe\n{"txt": "b", "id": 2}\n[]\n{"text": "c"}\n{'
    )
    manifest = Manifest(str(path))
    batches.run(manifest, opened(manifest, str(tmp_path / "out")), EchoEngine())
    assert set(batches.results(tmp_path / "out")) == {1, 5}
    failed = batches.errors(tmp_path / "out")
    assert {line: error["type"] for line, error in failed.items()} == dict.fromkeys(
        (2, 3, 4, 6), "ManifestError"
    )
    assert failed[3]["id"] == 2


def test_a_dead_engine_ends_it_and_its_lines_stay_to_do(tmp_path: Path) -> None:
    manifest = Manifest(str(batches.write_manifest(tmp_path / "m.jsonl", map(str, range(100)))))

    def dies(prompt: str) -> None:
        if int(prompt) >= 40:
            raise EngineDeadError("a worker ended")
        if int(prompt) == 7:
            raise RequestFailed("one request's own")

    with pytest.raises(EngineDeadError, match="a worker ended"):
        batches.run(manifest, opened(manifest, str(tmp_path / "out")), EchoEngine(dies))
    output = opened(manifest, str(tmp_path / "out"))
    assert 33 <= len(output.done) <= 40
    assert set(batches.errors(tmp_path / "out")) == {8}
    batches.run(manifest, output, EchoEngine())
    assert set(batches.results(tmp_path / "out")) == set(range(1, 101)) - {8}


def test_too_many_failures_end_it(tmp_path: Path) -> None:
    manifest = Manifest(str(batches.write_manifest(tmp_path / "m.jsonl", map(str, range(100)))))

    def fails(prompt: str) -> None:
        raise ValueError(f"not {prompt}")

    output = opened(manifest, str(tmp_path / "out"))
    with pytest.raises(TooManyFailed, match=r"lines have failed, more than --max-failed 3; .*not"):
        batches.run(manifest, output, EchoEngine(fails), max_failed=3)
    assert 4 <= len(batches.errors(tmp_path / "out")) <= 4 + 8  # those in flight fail too


def test_a_full_disk_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = Manifest(str(batches.write_manifest(tmp_path / "m.jsonl", map(str, range(50)))))
    output = opened(manifest, str(tmp_path / "out"))
    write = os.write

    def full(file: int, content: bytes) -> int:
        if b'"line":20' in content:
            write(file, content[:5])
            raise OSError(28, "No space left on device")
        return write(file, content)

    with monkeypatch.context() as patch:
        patch.setattr("antiphon.jobs.local_storage.os.write", full)
        with pytest.raises(OSError, match="No space left"):
            batches.run(manifest, output, EchoEngine(), in_flight=1)
    again = opened(manifest, str(tmp_path / "out"))
    assert len(again.done) == 19
    batches.run(manifest, again, EchoEngine())
    assert set(batches.results(tmp_path / "out")) == set(range(1, 51))


class Recorder:
    """Notes what the engine was asked."""

    def __init__(self) -> None:
        self.audio: list[Any] = []

    async def transcribe(self, audio: Any, **options: Any) -> Any:
        self.audio.append(audio)
        raise AudioError("noted")

    async def generate(self, prompt: Any, params: Any = None, **options: Any) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("folder", "audio", "expected"),
    [
        ("/data/calls/", "a.wav", Path("/data/calls/a.wav")),
        ("calls", "x/a.wav", Path("calls/x/a.wav")),
        ("/data", "/other/a.wav", Path("/other/a.wav")),
        ("/data", "file:///other/a.wav", Path("/other/a.wav")),
        ("/data", "call:1.wav", Path("/data/call:1.wav")),
        ("memory://calls/", "a.wav", b"sound"),
        ("/data", "memory://calls/a.wav", b"sound"),
        ("memory://calls/", "/data/a.wav", Path("/data/a.wav")),
    ],
)
def test_where_recordings_are(folder: str, audio: str, expected: Any) -> None:
    with fsspec.open("memory://calls/a.wav", "wb") as file:
        file.write(b"sound")
    engine = Recorder()
    with pytest.raises(AudioError, match="noted"):
        asyncio.run(Work(engine, 16_000, folder).perform(Entry(1, audio=audio)))
    assert engine.audio == [expected]


class Listener:
    """Notes the lengths of the recordings, and the most that `work` has held meanwhile."""

    def __init__(self) -> None:
        self.samples: list[int] = []
        self.most = 0
        self.work: Work | None = None

    async def transcribe(self, audio: Any, **options: Any) -> Transcription:
        assert self.work is not None
        await asyncio.sleep(0.001)
        self.most = max(self.most, self.work._memory.held)
        self.samples.append(len(audio[0]))
        return Transcription("heard", "en", [], len(audio[0]) / RATE)

    async def generate(self, prompt: Any, params: Any = None, **options: Any) -> Any:
        raise NotImplementedError


def wav(seconds: float) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, RATE, 0, "NONE", "NONE"))
        writer.writeframes(bytes(2 * round(seconds * RATE)))
    return file.getvalue()


@pytest.mark.parametrize("place", ["memory://parts", "disk"])
def test_parts_of_recordings_never_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Each line takes the bytes of a file and then the samples of its part."""
    monkeypatch.setattr("antiphon.jobs.work.FETCHED_BYTES", 1 << 20)
    content = wav(2.0)
    folder = str(tmp_path) if place == "disk" else place
    with fsspec.open(f"{folder}/a.wav", "wb") as file:
        file.write(content)
    engine = Listener()
    work = engine.work = Work(engine, RATE, folder)

    async def main() -> list[Any]:
        entries = [Entry(number, audio="a.wav", span=(0.5, 1.0)) for number in range(40)]
        async with asyncio.timeout(10):
            return await asyncio.gather(*(work.perform(entry) for entry in entries))

    records = asyncio.run(main())
    assert [record["line"] for record in records] == list(range(40))
    assert engine.samples == [RATE] * 40
    assert 0 < engine.most < (1 << 20) + 25 * len(content)
    assert work._memory.held == 0


@pytest.mark.parametrize("address", ["memory://no/such.wav", "what://x.wav"])
def test_a_recording_that_cannot_be_fetched(address: str) -> None:
    with pytest.raises(AudioError, match=f"{address}: cannot be fetched"):
        asyncio.run(Work(Recorder(), 16_000).perform(Entry(1, audio=address)))


def test_the_defaults_are_checked_once() -> None:
    defaults = Defaults(False, sampling={"max_tokens": 3})
    assert defaults.params is defaults.params
