"""Arguments for faster-whisper, as options of the engine."""

from dataclasses import fields
from pathlib import Path

import ctranslate2_files
import pytest

from antiphon.compat.faster_whisper import (
    VadOptions,
    WhisperModel,
    available_models,
    folders,
    keywords,
)
from antiphon.config.errors import ConfigurationError


@pytest.fixture
def folder(checkpoints, tmp_path: Path) -> Path:
    ctranslate2_files.write(checkpoints("whisper")[1], [], tmp_path, "int8")
    return tmp_path


def test_loading_options(folder: Path) -> None:
    def options(compute_type: str = "default", **others: object) -> dict[str, object]:
        return folders.engine_options(folder, "auto", 0, compute_type, 0, others)

    always = {"ray": False, "device": "auto", "encoder_window": "zeros"}
    assert options() == {**always, "quantization": "int8"}
    assert options("int8_float16")["dtype"] == "float16"
    assert "quantization" not in options("float32")
    assert options(flash_attention=True) == options()
    with pytest.raises(ConfigurationError, match="compute_type='int16' is not one of"):
        options("int16")
    with pytest.raises(ConfigurationError, match="give tensor_parallel_size="):
        options(tensor_parallel=True)
    with pytest.raises(TypeError, match="unexpected keyword argument 'flash'"):
        options(flash=True)
    with pytest.raises(ConfigurationError, match="CUDA_VISIBLE_DEVICES"):
        folders.engine_options(folder, "cuda", [0, 1], "default", 0, {})
    with pytest.raises(ConfigurationError, match="files= is not read"):
        WhisperModel(str(folder), files={"model.bin": b""})


def test_sizes_mean_their_repositories(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def fetch(repository: str, **options: object) -> str:
        asked[repository] = options
        return "/cache"

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert "large-v3" in available_models()
    assert folders.download_model("turbo", local_files_only=True, cache_dir="/models") == "/cache"
    (options,) = asked.values()
    assert list(asked) == ["mobiuslabsgmbh/faster-whisper-large-v3-turbo"]
    assert options["local_files_only"]
    assert options["cache_dir"] == "/models"
    folders.download_model("someone/whisper-ct2")
    assert "someone/whisper-ct2" in asked
    with pytest.raises(ValueError, match="Did you mean 'large-v3'"):
        folders.download_model("large-v33")


def test_vad_options() -> None:
    def options(**settings: object) -> VadOptions | None:
        return keywords.voice_options({**keywords.BATCHED, **settings}, batched=True)

    names = "threshold neg_threshold min_speech_duration_ms max_speech_duration_s "
    names += "min_silence_duration_ms speech_pad_ms"
    assert [field.name for field in fields(VadOptions)] == names.split()
    assert options() == VadOptions(min_silence_duration_ms=160, max_speech_duration_s=30)
    given = options(vad_parameters={"min_silence_duration_ms": 500}, chunk_length=20)
    assert given == VadOptions(min_silence_duration_ms=500, max_speech_duration_s=20)
    assert options(clip_timestamps=[{"start": 0, "end": 5}]) is None
    sequential = {**keywords.DEFAULTS, "vad_filter": True}
    assert keywords.voice_options(sequential, batched=False) == VadOptions()
    assert keywords.voice_options(keywords.DEFAULTS, batched=False) is None
    with pytest.raises(TypeError, match="treshold"):
        options(vad_parameters={"treshold": 0.5})


def test_options_are_the_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every option of theirs is one of the engine's, is meant for this side, or is refused."""
    for defaults, batched in ((keywords.DEFAULTS, False), (keywords.BATCHED, True)):
        options = keywords.engine_options(defaults, batched=batched)
        assert options["timestamps"] is not batched
        assert set(options) <= {*keywords.NAMES}
        given = options["params"].fields_set
        assert "repetition_penalty" in given
        assert given <= set(keywords.SAMPLING)
    settings = keywords.settled({"chunk_length": 20, "max_new_tokens": 9}, keywords.DEFAULTS)
    options = keywords.engine_options(settings, batched=False)
    assert options["chunk_seconds"] == 20
    assert options["params"].max_tokens == 9
    monkeypatch.setattr(keywords, "NAMES", [n for n in keywords.NAMES if n != "hotwords"])
    assert "hotwords" not in keywords.engine_options(keywords.DEFAULTS, batched=False)
    settings = {**keywords.DEFAULTS, "hotwords": "Kim"}
    with pytest.raises(ConfigurationError, match="hotwords='Kim': the engine does not do this yet"):
        keywords.engine_options(settings, batched=False)
