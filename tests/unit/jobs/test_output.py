"""A folder of results: killed anywhere, each line is there once in the end."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import batches
import fsspec
import pytest
from batches import EchoEngine, opened

from antiphon.config.errors import ConfigurationError
from antiphon.jobs import storage
from antiphon.jobs.formats import Parquet
from antiphon.jobs.local_storage import LocalFolder, LocalLog
from antiphon.jobs.manifest import Manifest
from antiphon.jobs.object_storage import ObjectFolder, SegmentedLog

LINES = 47


class Killed(BaseException):
    """As SIGKILL: nothing after it is done."""


class Killer:
    """Lets the process end at the n-th call that changes a file, before or after the change, or in
    the middle of a write."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left, self.dead = 0, False
        for owner, name in [
            (LocalLog, "append"),
            (LocalLog, "publish"),
            (LocalLog, "remove"),
            (LocalFolder, "write"),
            (LocalFolder, "remove"),
            (SegmentedLog, "checkpoint"),
            (ObjectFolder, "write"),
            (ObjectFolder, "remove"),
        ]:
            monkeypatch.setattr(owner, name, self._deadly(getattr(owner, name)))

    def live(self, calls: int) -> None:
        """Another process, for so many calls."""
        self.left, self.dead = calls, False

    def _count(self) -> None:
        self._end_if_dead()  # tasks beside the one that was hit
        self.left -= 1
        self.dead = self.left == 0

    def _end_if_dead(self) -> None:
        if self.dead:
            raise Killed

    def _deadly(self, method: Any) -> Any:
        def call(owner: Any, *arguments: Any) -> Any:
            self._count()
            if self.dead and method is LOG_APPEND:
                method(owner, arguments[0][: len(arguments[0]) // 2])
            self._end_if_dead()
            result = method(owner, *arguments)
            self._count()
            self._end_if_dead()
            return result

        return call


LOG_APPEND = LocalLog.append


def download(url: str, folder: Path) -> Path:
    """A folder of the memory file system, on disk."""
    files, path = fsspec.core.url_to_fs(url)
    folder.mkdir()
    for name in files.ls(path, detail=False):
        if files.isfile(name):
            (folder / name.rpartition("/")[2]).write_bytes(files.cat_file(name))
    return folder


def fails_at_thirteens(prompt: str) -> None:
    if int(prompt) % 13 == 0:
        raise ValueError(f"no {prompt}")


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
@pytest.mark.parametrize("place", ["disk", "memory"])
def test_each_line_once_wherever_it_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, form: str
) -> None:
    manifest = Manifest(str(batches.write_manifest(tmp_path / "m.jsonl", map(str, range(LINES)))))
    killer = Killer(monkeypatch)
    moments = 0
    for first in range(1, 400, 1 if form == "jsonl" else 7):
        url = str(tmp_path / f"out{first}") if place == "disk" else f"memory://out/{uuid4()}"
        killer.live(first)
        for run in range(100):
            try:
                output = opened(manifest, url, form=form)
                batches.run(manifest, output, EchoEngine(fails_at_thirteens))
                break
            except Killed:
                killer.live(first + 3 * run)  # so that it gets further each time
        folder = Path(url) if place == "disk" else download(url, tmp_path / f"copy{first}")
        done, failed = batches.results(folder), batches.errors(folder)
        assert set(done) | set(failed) == set(range(1, LINES + 1))
        assert not set(done) & set(failed)
        assert all(record["text"] == f"echo of {line - 1}" for line, record in done.items())
        assert set(failed) == {line for line in range(1, LINES + 1) if (line - 1) % 13 == 0}
        assert not [name for name in output.storage.names("_antiphon") if "part" in name]
        moments += run > 0
        if run == 0:
            break  # it ended before the kill
    assert moments > 5


def test_a_line_that_was_cut_is_done_again(tmp_path: Path) -> None:
    manifest = Manifest(str(batches.write_manifest(tmp_path / "m.jsonl", ["a", "b", "c"])))
    output = opened(manifest, str(tmp_path / "out"))
    output.add({"line": 2, "text": "echo of b"})
    log = tmp_path / "out" / "_antiphon" / "part-00000.jsonl"
    with log.open("ab") as file:
        file.write(b'{"line": 3, "text": "ec')
    with (tmp_path / "out" / "errors.jsonl").open("ab") as file:
        file.write(b'{"line": 1, "type": "X"}\n' + bytes(100))  # as after a crash of the machine
    again = opened(manifest, str(tmp_path / "out"))
    assert [line in again.done for line in (1, 2, 3)] == [True, True, False]
    batches.run(manifest, again, EchoEngine())
    assert set(batches.results(tmp_path / "out")) == {2, 3}
    assert set(batches.errors(tmp_path / "out")) == {1}


def test_a_shard_that_was_cut_is_written_again(tmp_path: Path) -> None:
    """On file systems whose files appear before they are complete."""
    manifest = Manifest(str(batches.write_manifest(tmp_path / "m.jsonl", map(str, range(12)))))
    output = opened(manifest, url := f"memory://cut/{uuid4()}", form="parquet", shard_lines=100)
    for line in range(1, 11):
        output.add({"line": line, "text": "x", "segments": []})
    output.checkpoint()
    output.storage.write("part-00000.parquet", lambda file: file.write(b"PAR1 and no more"))
    again = opened(manifest, url, form="parquet", shard_lines=100)
    assert len(again.done) == 10
    batches.run(manifest, again, EchoEngine())
    assert set(batches.results(download(url, tmp_path / "copy"))) == set(range(1, 13))


def test_failed_lines_can_be_tried_again(tmp_path: Path) -> None:
    manifest = Manifest(str(batches.write_manifest(tmp_path / "m.jsonl", map(str, range(30)))))
    folder = tmp_path / "out"
    batches.run(manifest, opened(manifest, str(folder)), EchoEngine(fails_at_thirteens))
    assert set(batches.errors(folder)) == {1, 14, 27}
    error = batches.errors(folder)[14]
    assert error == {"line": 14, "id": "n14", "type": "ValueError", "message": "no 13"}
    same = opened(manifest, str(folder))
    assert (len(same.done), same.counts.failed, same.finished) == (30, 3, True)
    again = opened(manifest, str(folder), retry_failed=True)
    assert (len(again.done), again.counts.failed) == (27, 0)
    batches.run(manifest, again, EchoEngine())
    assert set(batches.results(folder)) == set(range(1, 31))
    assert batches.errors(folder) == {}


def test_another_job_is_refused(tmp_path: Path) -> None:
    first = Manifest(str(batches.write_manifest(tmp_path / "a.jsonl", ["a", "b"])))
    other = Manifest(str(batches.write_manifest(tmp_path / "b.jsonl", ["a", "b", "c"])))
    url = str(tmp_path / "out")
    batches.run(first, opened(first, url, settings={"task": "x"}), EchoEngine())
    with pytest.raises(ConfigurationError, match=r"manifest has changed \(2 lines before, 3 now\)"):
        opened(other, url, settings={"task": "x"})
    with pytest.raises(ConfigurationError, match="task was 'x' and is None"):
        opened(first, url)
    output = opened(other, url, allow_changes=True)
    batches.run(other, output, EchoEngine())
    assert set(batches.results(tmp_path / "out")) == {1, 2, 3}
    assert len(opened(other, url).done) == 3  # it is this job's folder now


@pytest.mark.parametrize(("before", "now"), [("jsonl", "parquet"), ("parquet", "jsonl")])
@pytest.mark.parametrize("place", ["disk", "memory"])
def test_a_folder_has_one_format(tmp_path: Path, place: str, before: str, now: str) -> None:
    """Else no reader could read it in whole."""
    manifest = Manifest(str(batches.write_manifest(tmp_path / "a.jsonl", map(str, range(25)))))
    url = str(tmp_path / "out") if place == "disk" else f"memory://form/{uuid4()}"
    settings = {"format": before}
    output = opened(manifest, url, form=before, settings=settings)
    for line in range(1, 8):
        assert output.add({"line": line, "text": "x"}) is None
    output.save()
    changed = {"form": now, "settings": {"format": now}}
    unfinished = opened(manifest, url, **changed, allow_changes=True)  # logs are of no format yet
    assert len(unfinished.done) == 7
    batches.run(manifest, unfinished, EchoEngine())
    refusal = rf"has part-00000\.{now}, and all .* not '\.{before}' too: give another --output"
    with pytest.raises(ConfigurationError, match=refusal):
        opened(manifest, url, form=before, settings=settings, allow_changes=True)
    assert len(opened(manifest, url, **changed).done) == 25  # a refusal changes nothing
    folder = Path(url) if place == "disk" else download(url, tmp_path / "copy")
    assert set(batches.results(folder)) == set(range(1, 26))


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    manifest = Manifest(str(batches.write_manifest(tmp_path / "a.jsonl", ["a"])))
    (tmp_path / "part-0.jsonl").write_text("")
    with pytest.raises(ConfigurationError, match=r"part-0\.jsonl, which no batch has written"):
        opened(manifest, str(tmp_path))
    with pytest.raises(ConfigurationError, match="--output /proc/x: "):
        opened(manifest, "/proc/x")
    with pytest.raises(ConfigurationError, match="--output what://x: "):
        opened(manifest, "what://x")
    with pytest.raises(ConfigurationError, match="unknown format 'csv'"):
        opened(manifest, str(tmp_path / "out"), form="csv")


def test_parquet_has_the_columns_of_json(tmp_path: Path) -> None:
    manifest = Manifest(str(batches.write_manifest(tmp_path / "a.jsonl", ["a", "b"])))
    record = {
        "line": 1,
        "id": 7,
        "audio": "a.wav",
        "text": "hello",
        "language": "en",
        "language_probability": 0.5,
        "duration": 1.5,
        "segments": [
            {"start": 0.0, "end": 1.0, "text": "hello", "token_ids": [1], "logprobs": [{"1": 0.5}]}
        ],
        "skipped": [{"start": 1.0, "end": 1.5, "reason": "missing"}],
        "fields": {"speaker": 3},
    }
    output = opened(manifest, str(tmp_path / "out"), form="parquet")
    output.add(record)
    output.add({"line": 2, "id": None, "text": "x", "finish_reason": "stop"})
    output.finish({})
    rows = batches.results(tmp_path / "out")
    nothing = dict.fromkeys(rows[1])
    assert rows[2] == {**nothing, "line": 2, "text": "x", "finish_reason": "stop"}
    expected: dict[str, Any] = {**nothing, **record, "id": "7", "fields": '{"speaker":3}'}
    expected["segments"] = [{**record["segments"][0], "logprobs": '[{"1":0.5}]'}]  # type: ignore[index]
    assert rows[1] == expected
    again = opened(manifest, str(tmp_path / "out"), form="parquet")
    assert (again.counts.succeeded, again.counts.audio_seconds) == (2, 1.5)


def test_without_pyarrow_parquet_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'antiphon\[data\]'"):
        Parquet()


def test_a_shard_ends_with_its_bytes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("antiphon.jobs.output.SHARD_BYTES", 100)
    manifest = Manifest(str(batches.write_manifest(tmp_path / "a.jsonl", map(str, range(20)))))
    batches.run(manifest, opened(manifest, str(tmp_path / "out")), EchoEngine())
    assert len(list((tmp_path / "out").glob("part-*"))) == 10
    assert set(batches.results(tmp_path / "out")) == set(range(1, 21))


def test_results_stay_readable_for_others(tmp_path: Path) -> None:
    manifest = Manifest(str(batches.write_manifest(tmp_path / "a.jsonl", ["a"])))
    batches.run(manifest, opened(manifest, str(tmp_path / "out")), EchoEngine())
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "part-00000.jsonl",
        "errors.jsonl",
        "summary.json",
        storage.PRIVATE,
    }
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == {}


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    manifest = Manifest(str(batches.write_manifest(tmp_path / "a.jsonl", ["a"])))
    folder = tmp_path / "out"
    program = """
import sys, time
from pathlib import Path
from antiphon.jobs.output import LOCK
from antiphon.jobs.open_storage import open_storage
storage = open_storage(sys.argv[1])
storage.lock(LOCK)
print("locked", flush=True)
time.sleep(60)
"""
    command = [sys.executable, "-c", program, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(ConfigurationError, match="another process is writing there"):
            opened(manifest, str(folder))
        process.kill()
    with opened(manifest, str(folder)) as output:
        batches.run(manifest, output, EchoEngine())
    assert set(batches.results(folder)) == {1}
