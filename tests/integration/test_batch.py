"""`antiphon batch` on the shipped models, without Ray: speech, texts, kills, changes."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import batches
import forked_commands
import psutil
import pytest
from forked_commands import ENGINES, MAIN
from paths import RECORDINGS, T5, WHISPER

NUMBERS = 600


def antiphon_batch(
    *arguments: str | Path, stdin: bytes = b""
) -> "subprocess.CompletedProcess[str]":
    words = ("batch", *map(str, arguments), "--no-ray")
    done = forked_commands.run(MAIN, *words, stdin=stdin, imported=ENGINES)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("numbers")
    texts = (f"in words: {number}" for number in range(NUMBERS))
    return batches.write_manifest(folder / "numbers.jsonl", texts)


def test_speech(tmp_path: Path) -> None:
    lines: list[Any] = [
        {"audio_filepath": str(RECORDINGS / "call.wav"), "duration": 2.03, "text": "reference"},
        {"audio": "copy.wav", "id": "b", "language": "de"},
        {"audio": "nothing.wav", "id": "c"},
        {"audio": "empty.wav"},
        {"audio": "copy.wav", "offset": 0.0, "duration": 1.0},
        {"audio": "copy.wav", "offset": 60},
        {
            "audio": "copy.wav",
            "prompt": "<|startoftranscript|><|de|><|transcribe|><|notimestamps|>",
        },
        {"audio": "copy.wav", "logprobs": 0, "timeout": 60, "priority": 3},
        {"audio": "copy.wav", "language": "Klingon"},
    ]
    (tmp_path / "copy.wav").write_bytes((RECORDINGS / "wecker.wav").read_bytes())
    (tmp_path / "empty.wav").write_bytes(b"")
    manifest = tmp_path / "calls.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines) + "no JSON\n")
    done = antiphon_batch(manifest, "-m", WHISPER, "--output", tmp_path / "out")
    assert done.returncode == 3, done.stderr
    results, errors = batches.results(tmp_path / "out"), batches.errors(tmp_path / "out")
    german = "wecke mich morgen um vier"
    assert results[1]["text"] == "call seven nine zero"
    assert results[1]["language"] == "en"
    assert results[1]["fields"] == {"text": "reference", "duration": 2.03}
    assert (results[2]["text"], results[2]["id"], results[2]["audio"]) == (german, "b", "copy.wav")
    assert 0.3 < results[2]["segments"][0]["start"] < 0.7  # behind silence
    assert results[5]["duration"] == 1.0
    assert results[7]["text"].strip() == german
    assert len(results[8]["segments"][0]["logprobs"]) == len(results[8]["segments"][0]["token_ids"])
    kinds = {line: error["type"] for line, error in errors.items()}
    assert kinds == {
        **dict.fromkeys((3, 4, 6), "AudioError"),
        9: "PromptError",
        10: "ManifestError",
    }
    assert errors[3]["message"].endswith("nothing.wav: no such file")
    assert errors[3]["id"] == "c"
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["lines"], summary["succeeded"], summary["failed"]) == (10, 5, 5)
    seconds = sum(record.get("duration", 0.0) for record in results.values())
    assert summary["audio_seconds"] == pytest.approx(seconds, abs=1e-2)
    assert summary["last_run"]["times_real_time"] > 0
    assert "5 lines failed: see" in done.stderr


def test_killed_and_started_again(numbers: Path, tmp_path: Path) -> None:
    """By SIGKILL, twice, and by Ctrl-C."""
    out = tmp_path / "out"
    command = ["batch", str(numbers), "-m", str(T5), "--output", str(out), "--no-ray"]
    options = ["--shard-lines", "100", "--in-flight", "16", "--max-num-seqs", "8"]
    counts = [0]
    for signum in (signal.SIGKILL, signal.SIGKILL, signal.SIGINT):
        with forked_commands.started(MAIN, *command, *options, imported=ENGINES) as process:
            while len(_done(out)) < counts[-1] + 50:
                assert psutil.pid_exists(process.pid), process.completed()
                time.sleep(0.02)
            os.kill(process.pid, signum)
            killed = process.completed()
        counts.append(len(_done(out)))
        assert counts[-1] < NUMBERS
    assert killed.returncode == 130
    advice = f"antiphon: {counts[-1]:,} of {NUMBERS} lines are done and stay in {out}; "
    assert killed.stderr.splitlines()[-1].startswith(advice)
    assert not (out / "summary.json").exists()
    done = antiphon_batch(*command[1:-1], *options)
    assert done.returncode == 0, done.stderr
    assert f"{out}: {counts[-1]} of {NUMBERS} lines are done" in done.stderr
    results = batches.results(out)
    assert set(results) == set(range(1, NUMBERS + 1))
    assert results[43]["text"] == "forty two"
    assert len(list(out.glob("part-*.jsonl"))) == NUMBERS // 100
    assert [path.name for path in (out / "_antiphon").iterdir() if "part" in path.name] == []
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["succeeded"], summary["failed"]) == (NUMBERS, 0)
    assert summary["last_run"]["lines"] == NUMBERS - counts[-1]


def _done(out: Path) -> list[str]:
    """The lines in all shards, finished or not. A kill may have cut the last one."""
    lines: list[str] = []
    for path in [*out.glob("part-*"), *(out / "_antiphon").glob("part-*")]:
        try:
            lines += path.read_text().splitlines()
        except FileNotFoundError:  # it became a shard in between
            return []
    return [line for line in lines if line.endswith("}")]


@pytest.mark.slow
def test_texts_from_standard_input_into_parquet(tmp_path: Path) -> None:
    lines = b'{"text": "in words: 5", "max_tokens": 1}\n\n{"prompt": "in words: 12"}\n'
    options = ["-m", T5, "--output", tmp_path / "out", "-f", "parquet"]
    done = antiphon_batch("-", *options, stdin=lines)
    assert done.returncode == 0, done.stderr
    results = batches.results(tmp_path / "out")
    assert results[3]["text"] == "twelve"
    assert results[1]["finish_reason"] == "length"
    began = time.perf_counter()
    again = antiphon_batch("-", *options, stdin=lines)
    assert again.returncode == 0
    assert "nothing to do: all lines are done" in again.stderr
    assert "ready after" not in again.stderr, "no engine was needed"
    assert time.perf_counter() - began < 60
    changed = antiphon_batch("-", *options, "--max-tokens", "9", stdin=lines + b'{"text": "7"}\n')
    assert changed.returncode == 2
    assert "the manifest has changed (2 lines before, 3 now); max_tokens was None and is 9" in (
        changed.stderr
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", T5, "--language", "de"], "--language is for speech models"),
        (["-m", WHISPER, "--target-language", "de"], "--target-language is for text models"),
        (["-m", WHISPER, "--language", "Klingon"], "unknown language"),
        (["-m", T5, "-f", "csv"], "unknown format 'csv'"),
        (["-m", T5, "--resume"], "a batch goes on by itself where it stopped"),
        (["-m", T5, "--output-dir", "x"], "Did you mean --output?"),
        (["-m", T5, "-s", "temprature=1"], "Did you mean 'temperature'"),
    ],
)
def test_wrong_usage(tmp_path: Path, arguments: list[str | Path], message: str) -> None:
    manifest = batches.write_manifest(tmp_path / "m.jsonl", ["a"])
    done = antiphon_batch(manifest, *arguments, "--output", tmp_path / "out")
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_manifest_that_is_not_there(tmp_path: Path) -> None:
    done = antiphon_batch(tmp_path / "no.jsonl", "-m", T5, "--output", tmp_path / "out")
    assert done.returncode == 2
    assert "cannot read the manifest" in done.stderr
