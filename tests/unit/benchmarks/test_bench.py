"""`antiphon bench` on a CPU with very small models: the same code measures big ones on a GPU."""

import asyncio
import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from paths import ROOT
from transformers import AutoTokenizer
from typer.testing import CliRunner

from antiphon.benchmarks import attention, local, peers, serving, shapes
from antiphon.benchmarks.acceptance import acceptance
from antiphon.benchmarks.commands import _folder, _numbers
from antiphon.benchmarks.commands import app as bench
from antiphon.benchmarks.report import Report, plot, plot_attention, table, write_json
from antiphon.benchmarks.steps import Work
from antiphon.config.decoding_rules import TimestampRules
from antiphon.config.errors import ConfigurationError, RequestFailed
from antiphon.config.options import ModelOptions, resolve
from antiphon.encoder.runner import EncoderRunner
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.whisper.format import WhisperFormat

SMALL_WHISPER = {
    "d_model": 64,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
}
SMALL_T5 = {"d_model": 64, "d_ff": 64, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2}
SMALL = {
    "whisper": {**shapes.PUBLISHED["whisper-base"], **SMALL_WHISPER},
    "t5": {**shapes.PUBLISHED["flan-t5-base"], **SMALL_T5},
}


@pytest.fixture(params=["whisper", "t5"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    shapes.write_checkpoint(SMALL[request.param], tmp_path)
    return tmp_path


@pytest.mark.slow
def test_throughput_and_latency_beside_transformers(folder: Path, ray_cluster: None) -> None:
    load = serving.Load(requests=6, input_size=2, output_tokens=4)
    options = {
        "load_format": "dummy",
        "device": "cpu",
        "max_encoder_len": None if "whisper" in (folder / "config.json").read_text() else 64,
    }
    row, info = asyncio.run(serving.run_throughput(str(folder), options, load))
    assert info["decoder"]["device"] == "cpu"
    assert row["tokens/s"] == pytest.approx(24 / row["seconds"])
    rows, _ = asyncio.run(serving.run_latency(str(folder), options, load, [1, 2]))
    assert [(row["concurrency"], row["requests"]) for row in rows] == [(1, 6), (2, 6)]
    assert 0 < rows[0]["median_ms"] <= rows[0]["p95_ms"]
    assert row["memory_gib"] > 0.1


def test_the_same_loads_without_ray(folder: Path) -> None:
    load = serving.Load(requests=6, input_size=2, output_tokens=4)
    options = {"load_format": "dummy", "device": "cpu", "max_num_seqs": 2}
    row, info = local.throughput(str(folder), options, load)
    assert info["decoder"]["device"] == "cpu"
    assert (row["requests"], row["tokens/s"]) == (6, pytest.approx(24 / row["seconds"]))
    assert row["steps"] >= 12  # three pairs of four tokens
    rows, _ = local.latency(str(folder), options, load, [1, 2])
    assert [(row["concurrency"], row["requests"]) for row in rows] == [(1, 6), (2, 6)]
    assert 0 < rows[0]["median_ms"] <= rows[0]["p95_ms"]


def test_rows_tell_how_far_drafts_held(folder: Path) -> None:
    """They are looked up in the input, or in what was written where the input is sound."""
    load = serving.Load(requests=4, input_size=2, output_tokens=24)
    options = {"load_format": "dummy", "device": "cpu", "speculative_config": {"method": "ngram"}}
    row, _ = local.throughput(str(folder), options, load)
    assert row["tokens/s"] == pytest.approx(4 * 24 / row["seconds"])
    assert row["draft_tokens"] > 0
    assert 1 <= row["acceptance_length"] <= 5
    (row,), _ = local.latency(str(folder), options, load, [1])
    assert row["draft_tokens"] > 0
    assert row["tokens/s"] == pytest.approx(24 * row["requests/s"])


def test_rows_without_drafts_have_no_columns_of_them() -> None:
    assert acceptance({"steps": 1}, {"steps": 9}) == {}
    before = {"drafts": 2, "draft_tokens": 8, "accepted_draft_tokens": 5}
    assert acceptance(before, before) == {}
    after = {"drafts": 6, "draft_tokens": 18, "accepted_draft_tokens": 11}
    columns = acceptance(before, after)
    assert columns == {"draft_tokens": 10, "acceptance_%": 60, "acceptance_length": 2.5}


def test_a_request_that_fails_ends_a_run_without_ray(folder: Path) -> None:
    load = serving.Load(requests=2, input_size=2, output_tokens=4)
    engine = local.LocalEngine(str(folder), {"load_format": "dummy", "device": "cpu"}, load)
    try:
        with pytest.raises(RequestFailed, match="lower max_tokens"):
            engine.run([(2, 10**6)], 1)
    finally:
        engine.close()


@pytest.mark.slow
def test_transformers_gets_the_same_mixed_requests(folder: Path) -> None:
    load = serving.Load(requests=6, input_size=40, output_tokens=4, mixed=True)
    whisper = "whisper" in (folder / "config.json").read_text()
    sizes = load.sizes(whisper)
    assert sizes == load.sizes(whisper)
    assert len({tokens for _, tokens in sizes}) > 2
    assert all(4 <= tokens <= 30 and 2 <= size <= 40 for size, tokens in sizes)
    peer = peers.throughput(folder, load, 4, torch.float32, "cpu")
    assert peer["tokens/s"] == pytest.approx(sum(tokens for _, tokens in sizes) / peer["seconds"])


def test_dummy_weights_need_no_checkpoint(folder: Path) -> None:
    config = resolve(
        str(folder), {"load_format": "dummy", "device": "cpu", "max_encoder_len": None}
    )
    model = ModelConfig.load(config.model)
    runner = EncoderRunner(model, config)
    norms = [
        weight
        for path, weight in runner.model.named_parameters()
        if "norm" in path and path.endswith("weight")
    ]
    assert norms
    assert all((weight == 1).all() for weight in norms)
    assert (
        runner.model.layers[0]
        .get_parameter("self_attn.qkv.weight" if model.audio else "attention.qkv.weight")
        .std()
        < 0.03
    )


def test_the_work_of_an_encoder(tmp_path: Path) -> None:
    """large-v3: 2.3 TFLOP a window, as published comparisons count it."""
    shapes.write_checkpoint(shapes.PUBLISHED["whisper-large-v3"], tmp_path)
    work = Work.of(ModelConfig.load(ModelOptions(str(tmp_path))).encoder, 1500)
    assert (work.linear + work.attention) / 1e12 == pytest.approx(2.26, abs=0.01)


def test_a_report_is_written_as_it_grows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "rows.json"
    report = Report("a bench", "a machine", file)
    for count in (1, 2):
        report.add([{"number": count}])
        assert len(json.loads(file.read_text())["rows"]) == count
    monkeypatch.setattr(sys, "argv", ["show.py", str(file), "absent.json"])
    with pytest.raises(SystemExit, match=r"missing: absent\.json"):
        runpy.run_path(str(ROOT / "benchmarks" / "scripts" / "show.py"), run_name="__main__")
    assert "a bench, a machine" in capsys.readouterr().out


def test_tables_plots_and_files(tmp_path: Path) -> None:
    rows = [{"name": "a", "speed": 12345.6}, {"name": "b", "speed": 0.123, "note": "slow"}]
    lines = table(rows).splitlines()
    assert lines[0].split() == ["name", "speed", "note"]
    assert lines[3].split() == ["b", "0.123", "slow"]
    write_json(tmp_path / "rows.json", "a bench", "a machine", {"x": 1}, rows)
    assert json.loads((tmp_path / "rows.json").read_text())["rows"] == rows
    plot(tmp_path / "rows.png", "speeds", rows, "name", "speed")
    full = {"kind": "full", "batch": 1, "tokens": 512, "of_matmul_%": 40.0}
    decode = {"kind": "decode", "batch": 1, "tokens": 512, "kv": "fp8", "of_copy_%": 60.0}
    kernels = [
        {**row, "head_size": size, "backend": name}
        for row in (full, decode)
        for size in (64, 80)
        for name in ("a", "b")
    ]
    plot_attention(tmp_path / "kernels.png", "a machine", kernels)
    for name in ("rows", "kernels"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_measured_is_refused() -> None:
    with (
        pytest.raises(ConfigurationError, match="use --load-format dummy"),
        _folder("whisper-large-v3", "auto"),
    ):
        pass
    with pytest.raises(ConfigurationError, match="'1,x' must be whole numbers"):
        _numbers("1,x")


def test_sizes_of_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table of vision encoders: 16 heads, no decodes. Other flags go before the preset."""
    measured: list[tuple[str, attention.Sizes]] = []

    def measure(name: str) -> Callable[..., list[dict[str, float]]]:
        def rows(
            machine: str, sizes: attention.Sizes, dtype: torch.dtype
        ) -> list[dict[str, float]]:
            measured.append((name, sizes))
            return [{"us": 1.0}]

        return rows

    monkeypatch.setattr("antiphon.benchmarks.commands._need_gpu", lambda: None)
    monkeypatch.setattr("antiphon.benchmarks.machine.measure", lambda: "a machine")
    for name in ("full", "paged"):
        monkeypatch.setattr(attention, name, measure(name))
    for flags in (["--preset", "vit"], ["--preset", "vit", "--batches", "8"], []):
        assert CliRunner().invoke(bench, ["attention", *flags]).exit_code == 0
    vit = attention.Sizes([1, 2], [1024, 2048, 4096], [64, 80], 16, False)
    everything = attention.PRESETS["all"]
    assert measured == [
        ("full", vit), ("full", vit._replace(batches=[8])), ("full", everything),
        ("paged", everything),
    ]  # fmt: skip


def test_its_whisper_has_the_tokens_and_rules_of_the_published_one(tmp_path: Path) -> None:
    """By which transcripts are asked for: languages, tasks, silence and timestamps."""
    with shapes.speech_of_one_length("tiny", 2) as folder:
        model = ModelConfig.load(ModelOptions(folder))
        whisper = WhisperFormat(model, AutoTokenizer.from_pretrained(folder))
    assert whisper.prompt("de", "transcribe", timestamps=False) == [50258, 50261, 50360, 50364]
    assert len(whisper.languages) == 100
    assert (whisper.previous_id, whisper.no_speech_id) == (50362, 50363)
    assert whisper.times == range(50365, 51866)
    assert whisper.rules() == TimestampRules(50365, 50364, 50257, 50, 51865)
