"""The command line: results on standard output, errors in one line, exit codes."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import ray
import torch
from forked_commands import CHECKS, ENGINES, MAIN, run
from paths import RECORDINGS
from transformers import T5ForConditionalGeneration

from antiphon.cli.describe import count_parameters, describe_machine, describe_model, summary


def antiphon(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "antiphon", *arguments],
        capture_output=True,
        text=True,
        input=stdin,
        timeout=240,
    )


def own_lines(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if line.startswith("antiphon:")]


def test_transcribe(whisper_folder: Path) -> None:
    files = [str(RECORDINGS / "call.wav"), "/no/such.wav", str(RECORDINGS / "wecker.wav")]
    arguments = (*files, "--model", str(whisper_folder), "--json", "--no-ray")
    done = run(MAIN, "transcribe", *arguments, imported=ENGINES)
    assert done.returncode == 1
    results = {Path(line["file"]).name: line for line in map(json.loads, done.stdout.splitlines())}
    assert {name: line["text"] for name, line in results.items()} == {
        "call.wav": "call seven nine zero",
        "wecker.wav": "wecke mich morgen um vier",
    }
    assert results["wecker.wav"]["language"] == "de"
    assert own_lines(done.stderr) == ["antiphon: /no/such.wav: no such file"]
    assert f"configuration of {whisper_folder}" in done.stderr
    assert "Traceback" not in done.stderr


def test_transcribe_into_files(whisper_folder: Path, tmp_path: Path) -> None:
    files = [str(RECORDINGS / "call.wav"), "-"]
    options = [
        "-m",
        str(whisper_folder),
        "--output-dir",
        str(tmp_path),
        "-f",
        "srt,txt",
        "--no-ray",
        "-q",
    ]
    sound = (RECORDINGS / "wecker.wav").read_bytes()
    done = run(MAIN, "transcribe", *files, *options, stdin=sound, imported=ENGINES)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "call.srt",
        "call.txt",
        "stdin.srt",
        "stdin.txt",
    ]
    assert (tmp_path / "stdin.txt").read_text() == "wecke mich morgen um vier\n"
    assert re.fullmatch(
        r"1\n00:00:00,[3-6]\d0 --> 00:00:0\d,\d{3}\ncall seven nine zero\n\n",
        (tmp_path / "call.srt").read_text(),
    )


@pytest.mark.ray
@pytest.mark.parametrize("moment", ["reading the configuration", "starting Ray"])
def test_interrupted_while_it_starts(whisper_folder: Path, moment: str) -> None:
    command = [
        sys.executable,
        "-m",
        "antiphon",
        "transcribe",
        str(RECORDINGS / "call.wav"),
        "-m",
        str(whisper_folder),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while moment not in (line := process.stderr.readline()):
        assert line, "it ended before"
    time.sleep(1.0)  # amid what it announced
    descendants = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    began = time.perf_counter()
    stdout, stderr = process.communicate(timeout=60)
    assert time.perf_counter() - began < 20  # a second on an idle machine
    assert (process.returncode, stdout, stderr.splitlines()[-1]) == (
        130,
        "",
        "antiphon: interrupted",
    )
    assert "Traceback" not in stderr
    _, alive = psutil.wait_procs(descendants, timeout=2)
    assert alive == []


@pytest.mark.ray
def test_generate_from_standard_input(t5_folder: Path) -> None:
    done = antiphon(
        "generate",
        "--model",
        str(t5_folder),
        "-s",
        "max_tokens=20",
        "-o",
        "max_num_seqs=4",
        stdin="in words: 12\r\nin words: 90\n",
    )
    assert done.stdout.splitlines() == ["twelve", "ninety"]
    assert done.returncode == 0


@pytest.mark.slow  # no fast one of the command; test_attach.py joins by address in a program
def test_joining_a_running_cluster(
    t5_folder: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = ray.get_runtime_context().gcs_address
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    done = antiphon(
        "generate", "in words: 5", "--model", str(t5_folder), "-o", f"address={address}"
    )
    assert (done.stdout.strip(), done.returncode) == ("five", 0), done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "x", "--model", "/no/such"], "no such folder: /no/such"),
        (["generate", "x", "--model", "T5", "-s", "temprature=1"], "Did you mean 'temperature'"),
        (["generate", "x", "--model", "T5", "-o", "max_num_seq=1"], "Did you mean 'max_num_seqs'"),
        (["generate", "x", "--model", "T5", "-o", "oops"], "write NAME=VALUE"),
        (
            ["generate", "x", "--model", "T5", "-o", "encoder_attention_backend=flash"],
            "unknown attention backend 'flash'",
        ),
        (
            ["generate", "x", "--model", "T5", "-o", "address=127.0.0.1:1"],
            "no Ray cluster at 127.0.0.1:1",
        ),
    ],
)
def test_errors_are_one_line(arguments: list[str], message: str, t5_folder: Path) -> None:
    words = [str(t5_folder) if argument == "T5" else argument for argument in arguments]
    done = run(MAIN, *words, imported=CHECKS)
    assert done.returncode == 2
    assert len(own_lines(done.stderr)) == 1
    assert message in own_lines(done.stderr)[0]
    assert "Traceback" not in done.stderr


def test_info(t5_folder: Path) -> None:
    first, second = summary().splitlines()
    assert first.startswith("this machine: ")
    assert "decoder -> " in first
    assert f"torch {torch.__version__.split('+')[0]}" in second
    machine = describe_machine()
    assert "torch_sdpa" in machine
    assert "no: has no full attention" in machine
    assert "WhisperForConditionalGeneration (audio)" in machine
    model = describe_model(str(t5_folder), {"device": "cpu"})
    assert "3 layers of 128, 3 heads of 64" in model
    # 512 decoder and 1024 encoder positions, keys and values of 3 layers of 192 float32 numbers
    assert (
        f"1.5 million parameters, 6 MiB; {1536 * 2 * 3 * 192 * 4 / 2**20:.1f} MiB of KV cache"
        in model
    )
    assert "decoder attention (causal, cross): " in model
    assert "hidden states: into the decoder's memory (shared memory); from another node" in model
    beside = describe_model(str(t5_folder), {"placement": "colocated", "device": "cpu"})
    assert "hidden states: stay in the decoder's process" in beside
    refused = describe_model(str(t5_folder), {"encoder_attention_backend": "cpu_paged"})
    reason = "encoder_attention_backend='cpu_paged' cannot be used: has no full attention"
    assert f"encoder attention (full): {reason}" in refused


def test_parameters_are_counted_in_files_and_shards(t5_folder: Path, tmp_path: Path) -> None:
    model = T5ForConditionalGeneration.from_pretrained(t5_folder)
    for shard_size in ("1GB", "2MB"):
        model.save_pretrained(tmp_path / shard_size, max_shard_size=shard_size)
        assert count_parameters(tmp_path / shard_size) == model.num_parameters()
    assert len(list((tmp_path / "2MB").glob("*.safetensors"))) > 1
    assert count_parameters(tmp_path) is None
