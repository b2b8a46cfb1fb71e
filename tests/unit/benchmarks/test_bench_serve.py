"""`antiphon bench serve`: figures of made-up answers, and loads on a server with known delays."""

import asyncio
import json
import math
import wave
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from delayed_server import FIRST, NEXT, PARTS, delayed_server
from paths import RECORDINGS
from prometheus_client import CollectorRegistry, Counter, generate_latest
from typer.testing import CliRunner

from antiphon.benchmarks.service import asks, server_times
from antiphon.benchmarks.service.arrivals import ClosedLoop, OpenLoop
from antiphon.benchmarks.service.asks import Ask, Form
from antiphon.benchmarks.service.exchange import Answer
from antiphon.benchmarks.service.figures import figures, plain, plot_loads
from antiphon.benchmarks.service.sizes import Sizes
from antiphon.cli.app import app
from antiphon.config.errors import ConfigurationError, RequestFailed


def bench(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["bench", "serve", *map(str, arguments)])


def answer(began: float, texts_at: list[float], ended: float, **fields: Any) -> Answer:
    ask = Ask(Form("completions").ask_of_text("x", None).call, 3.0, fields.pop("reference", None))
    return Answer(ask, began, ended, texts_at, **fields)


def test_figures_of_two_streams() -> None:
    row = figures(
        [
            answer(
                10.0, [10.5, 10.6, 10.9], 11.0, text="A b", output_tokens=5, input_tokens=7,
                reference="a b",
            ),
            answer(11.0, [11.3, 11.5], 12.0, text="c", output_tokens=3, reference="c d"),
            answer(10.0, [], 14.0, error="broken", reference="not counted"),
        ]
    )  # fmt: skip
    assert (row["duration"], row["completed"], row["failed"]) == (4.0, 2, 1)
    assert (row["total_input_tokens"], row["total_output_tokens"]) == (7, 8)
    assert (row["request_throughput"], row["output_throughput"]) == (0.5, 2.0)
    assert row["total_token_throughput"] == 15 / 4
    assert (row["audio_seconds"], row["rtfx"]) == (6.0, 1.5)
    assert row["mean_ttft_ms"] == pytest.approx((500 + 300) / 2)
    assert row["mean_tpot_ms"] == pytest.approx((400 / 4 + 200 / 2) / 2)
    assert row["median_itl_ms"] == pytest.approx(200)  # of 100, 300 and 200
    assert row["p99_e2el_ms"] == pytest.approx(1000)
    assert row["word_error_rate"] == pytest.approx(1 / 4)


def test_what_is_not_known_is_left_out() -> None:
    row = figures([answer(0.0, [], 1.0, text="whole")])
    assert not {"mean_ttft_ms", "mean_tpot_ms", "mean_itl_ms", "word_error_rate"} & set(row)
    assert row["mean_e2el_ms"] == 1000
    assert plain(" It's  A_test -- OK? ") == "it's a test ok"


def test_sizes() -> None:
    rng = np.random.default_rng(0)
    assert Sizes.of("2.5").draw(2, rng, 0.1) == [2.5, 2.5]
    drawn = Sizes.of("uniform:1:3").draw(500, rng, 0.1)
    assert 1 <= min(drawn) < 1.1 < 2.9 < max(drawn) <= 3
    assert min(Sizes.of("normal:1:5").draw(500, rng, 0.5)) == 0.5
    assert np.median(Sizes.of("lognormal:8:0.5").draw(5000, rng, 0.1)) == pytest.approx(8, rel=0.1)
    for wrong in ("", "-1", "0", "uniform:3:1", "normal:3", "zipf:1:2", "nan"):
        with pytest.raises(ConfigurationError):
            Sizes.of(wrong)


def test_gaps_of_open_loops() -> None:
    rng = np.random.default_rng(0)
    assert OpenLoop(4, burstiness=math.inf).gaps(3, rng) == [0.25] * 3
    poisson = np.array(OpenLoop(10).gaps(20_000, rng))
    assert poisson.mean() == pytest.approx(0.1, rel=0.05)
    assert poisson.std() == pytest.approx(0.1, rel=0.05)
    even = OpenLoop(1, 5, math.inf).gaps(5, rng)
    assert even == [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5]


def test_loops_keep_what_they_promise() -> None:
    now_open, most = 0, 0

    async def ask(number: int) -> int:
        nonlocal now_open, most
        now_open += 1
        most = max(most, now_open)
        await asyncio.sleep(0.001)
        now_open -= 1
        return number

    numbers = range(20)
    assert sorted(asyncio.run(ClosedLoop(3).run(numbers, ask))) == list(numbers)
    assert most == 3
    assert asyncio.run(OpenLoop(1e6).run(numbers, ask)) == list(numbers)
    assert most > 3


@pytest.mark.parametrize("kind", ["audio", "image", "text"])
def test_synthetic_inputs_repeat_with_their_seed_alone(kind: str) -> None:
    def calls(seed: int) -> list[Any]:
        work = asks.synthetic(Form("chat"), kind, Sizes.of("20"), None, 2, seed)
        return [ask.call.json for ask in work]

    assert calls(1) == calls(1)
    assert calls(1) != calls(2)
    assert calls(1)[0] != calls(1)[1]


def test_synthetic_sound_is_a_wav_file_of_its_length() -> None:
    (ask,) = asks.synthetic(Form("transcriptions"), "audio", Sizes.of("1.5"), None, 1, 0)
    assert ask.call.file is not None
    with wave.open(BytesIO(ask.call.file[1])) as file:
        assert (file.getnframes(), file.getframerate()) == (24_000, 16_000)
    assert ask.seconds == 1.5


def test_a_stream_with_known_delays(tmp_path: Path) -> None:
    output, plot = tmp_path / "out.json", tmp_path / "out.png"
    with delayed_server() as (fake, address):
        result = bench(
            "--server", address, "--endpoint", "chat", "--requests", 6, "--concurrency", "1,3",
            "--output-tokens", 4, "--field", "temperature=0", "--output", output, "--plot", plot,
        )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert len(fake.bodies) == 6 + 6 + 1  # and one before
    assert fake.most_open == 3
    body = fake.bodies[-1]
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("only", 4, 0)
    assert body["stream_options"] == {"include_usage": True}
    first, second = json.loads(output.read_text())["rows"]
    assert (first["load"], second["load"]) == ("1 callers", "3 callers")
    for row in (first, second):
        assert (row["completed"], row["failed"]) == (6, 0)
        assert (row["total_input_tokens"], row["total_output_tokens"]) == (30, 24)
        assert row["median_ttft_ms"] >= 1e3 * FIRST
        assert row["mean_tpot_ms"] >= 0.9e3 * NEXT
        assert row["median_e2el_ms"] >= 1e3 * (FIRST + len(PARTS) * NEXT)
        assert row["median_e2el_ms"] >= row["median_ttft_ms"] + 3 * row["median_tpot_ms"]
        assert row["request_throughput"] == pytest.approx(6 / row["duration"])
        assert row["mean_queue_ms"] == pytest.approx(100)
        assert row["median_queue_ms"] == pytest.approx(100)  # in the middle of its bucket
    assert first["duration"] >= 6 * (FIRST + len(PARTS) * NEXT)
    assert plot.stat().st_size > 1000


def test_a_manifest_gives_a_word_error_rate(tmp_path: Path) -> None:
    manifest, output = tmp_path / "real.jsonl", tmp_path / "out.json"
    entries = [
        {"audio": str(RECORDINGS / "call.wav"), "text": "hello new world"},
        {"audio_filepath": str(RECORDINGS / "wecker.wav"), "text": "hello old world now"},
    ]
    manifest.write_text("\n".join(map(json.dumps, entries)))
    with delayed_server() as (fake, address):
        result = bench(
            "--server", address, "--no-stream", "--manifest", manifest, "--rate", "200",
            "--output", output, "--warm-ups", 0, "--field", "language=en",
        )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert fake.bodies == [{"model": "only", "language": "en", "response_format": "json"}] * 2
    (row,) = json.loads(output.read_text())["rows"]
    assert row["word_error_rate"] == pytest.approx(2 / 7)
    assert row["rtfx"] == pytest.approx(row["audio_seconds"] / row["duration"])
    assert row["audio_seconds"] > 2
    assert "mean_ttft_ms" not in row


def test_refusals_are_counted_and_named() -> None:
    with delayed_server(refuses=3) as (_, address):
        result = bench("--server", address, "--endpoint", "chat", "--requests", 6, "--warm-ups", 0)
    assert result.exit_code == 0
    assert "32 callers: 2 failed: too busy (status 429)" in result.output
    with delayed_server(refuses=1) as (_, address):
        result = bench("--server", address, "--endpoint", "chat", "--requests", 2)
    assert isinstance(result.exception, RequestFailed)


def test_mistakes_are_told_before_anything_is_sent(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "wrong").write_text('{"audio": "nowhere.wav"}')
    for arguments in (
        ["--endpoint", "embeddings"],
        ["--input", "text"],
        ["--input", "video"],
        ["--concurrency", "0"],
        ["--concurrency", "many"],
        ["--rate", "0:5"],
        ["--output-tokens", "5"],
        ["--manifest", str(tmp_path / "empty")],
        ["--manifest", str(tmp_path / "wrong")],
        ["--manifest", str(tmp_path / "missing")],
    ):
        assert isinstance(bench(*arguments).exception, ConfigurationError), arguments
    assert isinstance(bench("--server", "http://127.0.0.1:9").exception, RequestFailed)


def test_quantiles_of_a_histogram() -> None:
    histogram = server_times.Histogram(10, 3.0, {0.1: 5, 0.5: 9, math.inf: 10})
    assert histogram.quantile(0.25) == pytest.approx(0.05)
    assert histogram.quantile(0.7) == pytest.approx(0.3)
    assert histogram.quantile(1.0) == 0.5
    passed = histogram.since(server_times.Histogram(5, 0.2, {0.1: 5, 0.5: 5, math.inf: 5}))
    assert (passed.count, passed.total) == (5, pytest.approx(2.8))
    assert passed.quantile(0.4) == pytest.approx(0.3)


@pytest.mark.parametrize("prefix", ["antiphon_", "vllm:"])
def test_drafts_between_two_pages_of_metrics(prefix: str) -> None:
    def page(*values: int) -> str:
        registry = CollectorRegistry()
        for name, value in zip(server_times.DRAFT_COUNTERS.values(), values, strict=True):
            counter = Counter(prefix + name, "of a model", ["model_name"], registry=registry)
            counter.labels("one").inc(value - 1)
            counter.labels("other").inc(1)
        return generate_latest(registry).decode()

    fields = dict(server_times.between(page(2, 8, 5), page(6, 18, 11)))
    assert fields == {"draft_tokens": 10, "acceptance_%": 60, "acceptance_length": 2.5}
    assert not dict(server_times.between(page(2, 8, 5), page(2, 8, 5)))


def test_plots_of_loads_without_an_answer(tmp_path: Path) -> None:
    plot_loads(tmp_path / "p.png", "none", [("x", [answer(0.0, [], 1.0, error="broken")])])
    assert (tmp_path / "p.png").stat().st_size > 1000
