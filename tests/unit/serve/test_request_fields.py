"""What is wrong in a request is told with the field that it is in."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

import pytest
from openai.types.audio.transcription_create_params import TranscriptionCreateParamsBase

from antiphon.config.beam_settings import BeamDefaults
from antiphon.config.errors import SamplingError
from antiphon.config.generation import GenerationDefaults
from antiphon.config.options import ModelOptions
from antiphon.config.sampling import SamplingParams
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.processor import InputProcessor
from antiphon.serve.beam_fields import check_beam_fields
from antiphon.serve.errors import ApiError, as_api_error
from antiphon.serve.schemas.audio import LISTS, TranscriptionBody
from antiphon.serve.schemas.text import CompletionBody
from antiphon.serve.service import ServedModel, Service
from antiphon.serve.settings import ServerSettings
from antiphon.serve.transcription_options import transcription_options


def model_of(defaults: GenerationDefaults) -> ServedModel:
    inputs = SimpleNamespace(model=SimpleNamespace(defaults=defaults), whisper=None)
    engine: Any = SimpleNamespace(inputs=inputs)
    return ServedModel("m", engine)


GREEDY = model_of(GenerationDefaults())
BEAMS = model_of(GenerationDefaults(beams=BeamDefaults(4)))
DRAWN = model_of(GenerationDefaults(beams=BeamDefaults(4), temperature=0.7))


@pytest.mark.parametrize(
    ("field", "value"), [("length_penalty", 0.5), ("early_stopping", "never"), ("patience", 2.0)]
)
def test_fields_of_a_beam_search_without_beams(field: str, value: Any) -> None:
    params = CompletionBody(prompt="", **{field: value}).sampling()
    for model in (GREEDY, DRAWN):
        with pytest.raises(ApiError) as caught:
            check_beam_fields(model, params)
        assert (caught.value.status, caught.value.param) == (400, field)
    check_beam_fields(BEAMS, params)
    check_beam_fields(GREEDY, replace(params, beam_size=2))
    with pytest.raises(ApiError):
        check_beam_fields(BEAMS, replace(params, beam_size=1))


def test_fields_that_ask_for_nothing_are_taken() -> None:
    body = CompletionBody(prompt="", length_penalty=1, early_stopping=False, patience=1)
    check_beam_fields(GREEDY, body.sampling())


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"beam_size": 65}, "beam_size"),
        ({"beam_size": 2, "temperature": 0.5}, "beam_size"),
        ({"beam_size": 2, "n": 3}, "beam_size"),
        ({"beam_size": 2, "patience": 2, "early_stopping": True}, "patience"),
        ({"n": 2}, "n"),
        ({"top_p": 1.5}, "top_p"),
        ({"logit_bias": {5: 1e9}}, "logit_bias"),
        ({"min_tokens": 3, "max_tokens": 2}, "min_tokens"),
    ],
)
def test_sampling_errors_name_their_field(options: dict[str, Any], param: str) -> None:
    with pytest.raises(SamplingError) as caught:
        SamplingParams(**options)
    assert as_api_error(caught.value).param == param


def test_completions_are_of_models_that_read_text_alone() -> None:
    kinds = {"hears": (1, None, None), "sees": (None, None, 1), "reads": (None, None, None)}
    service = Service(ServerSettings(), {})
    for name, (audio, images, attended) in kinds.items():
        inputs = SimpleNamespace(audio=audio, images=images, attended_image=attended)
        engine: Any = SimpleNamespace(inputs=inputs)
        service.models[name] = ServedModel(name, engine)
    assert service.text_model(None).name == "reads"
    for name, path in {"hears": "/v1/audio/transcriptions", "sees": "/v1/chat/comp"}.items():
        with pytest.raises(ApiError, match=path) as caught:
            service.text_model(name)
        assert (caught.value.status, caught.value.param) == (400, "model")


# ---------------------------------------------------------------------- transcriptions


@pytest.fixture(scope="module")
def whisper(whisper_folder: Path) -> InputProcessor:
    return InputProcessor(ModelConfig.load(ModelOptions(str(whisper_folder))))


def refusal(inputs: InputProcessor, **fields: Any) -> ApiError:
    engine: Any = SimpleNamespace(inputs=inputs)
    service: Any = SimpleNamespace(deadline=lambda timeout: 60.0)
    with pytest.raises(ApiError) as caught:
        transcription_options(service, ServedModel("m", engine), TranscriptionBody(**fields))
    return caught.value


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"language": "hotwords"}, "language"),
        ({"language": "initial_prompt", "prompt": "a name"}, "language"),
        ({"language": "en", "prompt": "<|en|>"}, "prompt"),
        ({"language": "en", "hotwords": "<|en|>"}, "hotwords"),
    ],
)
def test_the_field_is_not_read_from_a_message(
    whisper: InputProcessor, fields: dict[str, Any], param: str
) -> None:
    error = refusal(whisper, **fields)
    assert (error.status, error.param) == (400, param)
    assert fields["language"] == "en" or repr(fields["language"]) in error.message


@pytest.mark.parametrize("field", ["prompt", "hotwords"])
def test_checkpoints_that_take_no_earlier_text(
    whisper_folder: Path, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Advice is on what was given, and on nothing that requests don't have."""
    inputs = InputProcessor(ModelConfig.load(ModelOptions(str(whisper_folder))))
    monkeypatch.setattr(inputs.whisper, "previous_id", None)
    error = refusal(inputs, **{field: "a name"})
    assert error.param == field
    assert f"leave out {field}" in error.message
    assert "condition_on_previous_text" not in error.message


def test_wrong_values_name_their_field(whisper: InputProcessor) -> None:
    assert refusal(whisper, priority=10**30).param == "priority"


def test_all_fields_of_openais_client_are_known() -> None:
    """Its present one: what it sends is taken, or refused with a reason; as lists what it lists."""
    fields = get_type_hints(TranscriptionCreateParamsBase)
    known = TranscriptionBody.known() | set(TranscriptionBody.refusals)
    assert set(fields) - known == {"file"}
    listed = {name for name, kind in fields.items() if "List[" in str(kind) or "Seq" in str(kind)}
    assert {"include", "keywords"} <= listed == set(LISTS)


def test_chunks_by_voice_activity() -> None:
    """Of a form, in brackets or as JSON; its padding stands at both ends."""
    wanted = {"threshold": 0.5, "speech_pad_ms": 100, "min_silence_duration_ms": 200}
    for sent in (
        {"type": "server_vad", "prefix_padding_ms": "100"},
        '{"type": "server_vad", "prefix_padding_ms": 100}',
    ):
        assert TranscriptionBody(chunking_strategy=sent).vad_parameters == wanted
    for plain in ("auto", "", None):
        assert TranscriptionBody(chunking_strategy=plain).vad_parameters is None


def test_models_without_times_of_words(whisper_folder: Path) -> None:
    inputs = InputProcessor(ModelConfig.load(ModelOptions(str(whisper_folder))), has_words=False)
    fields = {"response_format": "verbose_json", "timestamp_granularities": ["word"]}
    assert refusal(inputs, **fields).param == "timestamp_granularities"
