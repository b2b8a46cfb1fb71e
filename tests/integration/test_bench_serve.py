"""`antiphon bench serve` on a server of ours, with the shipped model and real recordings."""

import json
import zipfile
from pathlib import Path

import pytest
from http_server import running_server
from paths import EXAMPLES, WHISPER
from typer.testing import CliRunner

from antiphon.cli.app import app

RECORDINGS = 12


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """The first of the recordings that the shipped model was not trained on."""
    path = tmp_path / "real.jsonl"
    with zipfile.ZipFile(EXAMPLES / "whisper_commands" / "held_out.zip") as archive:
        expected = json.loads(archive.read("expected.json"))
        names = list(expected)[:RECORDINGS]
        archive.extractall(tmp_path, names)
    lines = [json.dumps({"audio": name, "text": expected[name]["text"]}) for name in names]
    path.write_text("\n".join(lines))
    return path


@pytest.mark.slow
def test_real_recordings(manifest: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    with running_server({"hears": str(WHISPER)}) as running:
        command = [
            "bench", "serve", "--server", running.url, "--manifest", str(manifest),
            "--concurrency", "1,4", "--output", str(output),
        ]  # fmt: skip
        result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    for row in json.loads(output.read_text())["rows"]:
        assert (row["completed"], row["failed"]) == (RECORDINGS, 0)
        assert row["word_error_rate"] < 0.2
        assert row["rtfx"] > 1
        assert 0 < row["median_ttft_ms"] <= row["median_e2el_ms"]
        assert row["total_output_tokens"] >= 3 * RECORDINGS
