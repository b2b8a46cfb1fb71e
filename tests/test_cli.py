"""The command line: results on standard output, errors in one line, exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import ray
import torch
from transformers import T5ForConditionalGeneration

from antiphon.client.cli.describe import count_parameters, describe_machine, describe_model, summary

RECORDINGS = Path(__file__).parents[1] / "examples" / "whisper_commands" / "recordings"


def antiphon(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "antiphon", *arguments], capture_output=True, text=True, input=stdin, timeout=120)


def own_lines(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if line.startswith("antiphon:")]


def test_transcribe(whisper_folder: Path) -> None:
    files = [str(RECORDINGS / "call.wav"), "/no/such.wav", str(RECORDINGS / "wecker.wav")]
    done = antiphon("transcribe", *files, "--model", str(whisper_folder), "--json")
    assert done.returncode == 1
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [result["text"] for result in results] == ["call seven nine zero", "wecke mich morgen um vier"]
    assert results[1]["language"] == "de"
    assert own_lines(done.stderr) == ["antiphon: /no/such.wav: no such file"]
    assert "Traceback" not in done.stderr


def test_generate_from_standard_input(t5_folder: Path) -> None:
    done = antiphon(
        "generate", "--model", str(t5_folder), "-s", "max_tokens=20", "-o", "max_num_seqs=4", stdin="in words: 12\nin words: 90\n"
    )
    assert done.stdout.splitlines() == ["twelve", "ninety"]
    assert done.returncode == 0


def test_joining_a_running_cluster(t5_folder: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    address = ray.get_runtime_context().gcs_address
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    done = antiphon("generate", "in words: 5", "--model", str(t5_folder), "-o", f"address={address}")
    assert (done.stdout.strip(), done.returncode) == ("five", 0), done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "x", "--model", "/no/such"], "no such folder: /no/such"),
        (["generate", "x", "--model", "T5", "-s", "temprature=1"], "Did you mean 'temperature'"),
        (["generate", "x", "--model", "T5", "-o", "max_num_seq=1"], "Did you mean 'max_num_seqs'"),
        (["generate", "x", "--model", "T5", "-o", "oops"], "write NAME=VALUE"),
        (["generate", "x", "--model", "T5", "-o", "encoder_attention_backend=flash"], "unknown attention backend 'flash'"),
        (["generate", "x", "--model", "T5", "-o", "address=127.0.0.1:1"], "no Ray cluster at 127.0.0.1:1"),
    ],
)
def test_errors_are_one_line(arguments: list[str], message: str, t5_folder: Path) -> None:
    done = antiphon(*[str(t5_folder) if argument == "T5" else argument for argument in arguments])
    assert done.returncode == 1
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
    assert f"1.5 million parameters, 6 MiB; {1536 * 2 * 3 * 192 * 4 / 2**20:.1f} MiB of KV cache" in model
    assert "decoder attention (causal, cross): " in model
    refused = describe_model(str(t5_folder), {"encoder_attention_backend": "cpu_paged"})
    assert "encoder attention (full): encoder_attention_backend='cpu_paged' cannot be used: has no full attention" in refused


def test_parameters_are_counted_in_files_and_shards(t5_folder: Path, tmp_path: Path) -> None:
    model = T5ForConditionalGeneration.from_pretrained(t5_folder)
    for shard_size in ("1GB", "2MB"):
        model.save_pretrained(tmp_path / shard_size, max_shard_size=shard_size)
        assert count_parameters(tmp_path / shard_size) == model.num_parameters()
    assert len(list((tmp_path / "2MB").glob("*.safetensors"))) > 1
    assert count_parameters(tmp_path) is None
