"""The stage of Ray Data, in real actors, on the shipped models."""

from pathlib import Path
from typing import Any

import pytest
import ray
from paths import RECORDINGS, T5, WHISPER

from antiphon import Engine
from antiphon.config.errors import AudioError, ConfigurationError, SamplingError
from antiphon.inputs.audio.forms import load_audio
from antiphon.jobs.ray_data import AntiphonEngineProcessorConfig, build_processor

CALL, WECKER = RECORDINGS / "call.wav", RECORDINGS / "wecker.wav"
ENGLISH, GERMAN = "call seven nine zero", "wecke mich morgen um vier"


@pytest.fixture(scope="module", autouse=True)
def quiet(ray_cluster: None) -> None:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False


def config(model: Path, **options: Any) -> AntiphonEngineProcessorConfig:
    return AntiphonEngineProcessorConfig(
        model_source=str(model), engine_kwargs={"max_num_seqs": 4}, batch_size=4, **options
    )


def test_recordings_in_every_form() -> None:
    samples = load_audio(CALL, 16_000)
    rows: list[dict[str, Any]] = [
        {"name": "path", "audio": str(CALL)},
        {"name": "language", "audio": str(WECKER), "language": "de"},
        {"name": "missing", "audio": "/no/such.wav"},
        {"name": "nothing"},
        {"name": "bytes", "bytes": WECKER.read_bytes(), "path": "somewhere/else.wav"},
        {"name": "array", "amplitude": samples[None], "sample_rate": 16_000},
        {"name": "part", "audio": str(CALL), "offset": 0.0, "duration": 1.0},
    ]
    dataset = ray.data.from_items([{"row": number} for number in range(len(rows))])
    processor = build_processor(
        config(WHISPER, should_continue_on_error=True),
        preprocess=lambda row: rows[row["row"]],
        postprocess=lambda row: {
            "name": row["name"],
            "said": row["text"].upper(),
            "language": row["language"],
            "segments": row["segments"],
            "seconds": row["duration"],
        },
    )
    results = {row["name"]: row for row in processor(dataset).take_all()}
    assert set(results) == {row["name"] for row in rows}
    for name in ("path", "array"):
        assert results[name]["said"] == ENGLISH.upper(), name
    for name in ("language", "bytes"):
        assert (results[name]["said"], results[name]["language"]) == (GERMAN.upper(), "de"), name
    assert results["path"]["segments"][0]["text"] == ENGLISH
    assert results["part"]["seconds"] == 1.0
    assert results["path"]["error"] == ""
    assert results["missing"]["error"] == "AudioError: /no/such.wav: no such file"
    assert results["missing"]["audio"] == "/no/such.wav", "failed rows keep their columns"
    assert "no 'audio'" in results["nothing"]["error"]


@pytest.mark.slow
def test_texts_through_two_actors() -> None:
    dataset = ray.data.from_items([{"text": f"in words: {number}", "n": 1} for number in range(40)])
    processor = build_processor(config(T5, concurrency=2, sampling_params={"max_tokens": 30}))
    rows = processor(dataset).take_all()
    assert len(rows) == 40
    assert {"zero", "twelve", "thirty nine"} <= {row["text"] for row in rows}
    assert {row["error"] for row in rows} == {""}
    assert {row["finish_reason"] for row in rows} == {"stop"}


@pytest.mark.slow
def test_actors_that_share_a_running_engine() -> None:
    dataset = ray.data.from_items([{"text": f"in words: {number}"} for number in range(20)])
    with Engine(str(T5), name="shared-numbers", max_num_seqs=4) as engine:
        shared = AntiphonEngineProcessorConfig(attach="shared-numbers", concurrency=2)
        rows = build_processor(shared)(dataset).take_all()
        assert engine.stats()["tokens"] > 20
    assert {"zero", "twelve", "nineteen"} <= {row["text"] for row in rows}
    assert {row["error"] for row in rows} == {""}


def test_an_error_ends_the_dataset_unless_told_otherwise() -> None:
    dataset = ray.data.from_items([{"audio": "/no/such.wav"}])
    with pytest.raises(Exception, match=r"/no/such\.wav: no such file") as caught:
        build_processor(config(WHISPER))(dataset).take_all()
    assert AudioError.__name__ in str(caught.value)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"engine_kwargs": {"max_num_seq": 3}}, "Did you mean 'max_num_seqs'"),
        ({"engine_kwargs": {"ray": True}}, "ray=True is not for"),
        ({"attach": "name"}, "model_source and engine_kwargs, or attach"),
        ({"concurrency": 0}, "concurrency must be"),
        ({"concurrency": (3, 2)}, "concurrency must be"),
        ({"batch_size": 0}, "batch_size must be a whole number above 0"),
        ({"batch_size": "8"}, "batch_size must be a whole number above 0"),
        ({"concurrency": (1, 2, 3)}, "concurrency must be a whole number above 0, or"),
        ({"concurrency": True}, "concurrency must be a whole number above 0, or"),
        ({"num_gpus": float("nan")}, "num_gpus must be a number above 0"),
        ({"sampling_params": {"top_p": 3}}, "top_p"),
    ],
)
def test_wrong_options(options: dict[str, Any], error: str) -> None:
    with pytest.raises((ConfigurationError, SamplingError), match=error):
        AntiphonEngineProcessorConfig(model_source=str(T5), **options)
    with pytest.raises(ConfigurationError, match="must be an AntiphonEngineProcessorConfig"):
        build_processor({"model_source": "x"})  # type: ignore[arg-type]
