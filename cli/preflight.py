"""Checks before an engine starts, which takes long: options, the kind of model, languages, devices,
attention backends, kinds of files.

What the checkpoint's JSON files decide is checked first, without transformers and torch, which take
seconds to import.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from antiphon.attention.registry import backend_row, check_backend
from antiphon.cli.recordings import STANDARD_INPUT, Recording
from antiphon.config.errors import (
    AudioError,
    CheckpointError,
    ConfigurationError,
    PromptError,
    SamplingError,
    nearest,
)
from antiphon.config.locate import locate
from antiphon.config.options import EngineConfig, resolve
from antiphon.config.sampling import SamplingParams
from antiphon.families.checkpoint import architecture_of, stated_generation, stated_sizes
from antiphon.families.registry import families
from antiphon.inputs.calls.options import check_token_ids
from antiphon.inputs.languages.codes import LanguageCodes, language_tokens
from antiphon.inputs.languages.lookup import language_code
from antiphon.inputs.media_files import open_media
from antiphon.inputs.whisper.format import check_english_only
from antiphon.inputs.whisper.tokens import TASKS, added_tokens, language_ids
from antiphon.runtime.driver import check_device, gpu_is_possible

PROBED_FILES = 32  # opening more would delay the first result
RUNNING_CLUSTER = Path("/tmp/ray/ray_current_cluster")  # written by Ray


def check_options(model: str, engine: Mapping[str, Any]) -> None:
    """Raises ConfigurationError for engine options that are wrong for any model."""
    resolve(model, engine)


def takes_audio(model: str, engine: Mapping[str, Any]) -> bool:
    """Whether the model hears; else it reads text. Raises AntiphonError."""
    return architecture_of(_located(resolve(model, engine)).model)[1] == "audio"


def check_transcription(model: str, engine: Mapping[str, Any], **options: Any) -> None:
    """Raises AntiphonError if this model cannot transcribe with these `options` of transcribe()."""
    config = _located(resolve(model, engine))
    architecture, reads = architecture_of(config.model)
    if reads != "audio":
        raise PromptError(f"{model} ({architecture}) reads text: use `antiphon generate` for it")
    _check_address(config)
    _check_task(options.get("task"))
    _check_language(config, options.get("language"), options.get("task"))
    from antiphon.inputs.calls.transcription import checked_window, one_sample  # imports numpy

    params = one_sample(options.get("params"))
    if (sizes := stated_sizes(config.model)) is not None:
        _check_length(params, sizes.max_decoder_len)
        check_token_ids(params, sizes.decoder.vocab_size)
        assert sizes.encoder is not None
        audio = sizes.encoder.audio_config(Path(config.model.model))
        assert audio is not None
        checked_window(options.get("chunk_seconds"), audio)
    _check_names(config)
    from antiphon.inputs.images.limits import ImageLimits
    from antiphon.inputs.processor import InputProcessor

    checkpoint = _checkpoint(config)
    limits, has_words = ImageLimits.of(config.model), config.decoder.enable_word_timestamps
    inputs = InputProcessor(checkpoint, config.encoder.window, limits, has_words)
    checked = inputs.check_transcription(**options)
    _check_length(checked.params, checkpoint.max_decoder_len)
    _check_machine(config, checkpoint)


def check_text_settings(
    model: str, engine: Mapping[str, Any], params: SamplingParams, languages: Mapping[str, str]
) -> EngineConfig:
    """The part of `check_generation` that takes no heavy import. Returns the options with the
    checkpoint's folder."""
    config = _located(resolve(model, engine))
    architecture, reads = architecture_of(config.model)
    if reads == "audio":
        raise PromptError(f"{model} ({architecture}) listens: use `antiphon transcribe` for it")
    _check_translation(config, architecture, languages)
    _check_address(config)
    if (sizes := stated_sizes(config.model)) is not None:
        _check_length(params, sizes.max_decoder_len)
        check_token_ids(params, sizes.decoder.vocab_size)
    _check_names(config)
    return config


def check_generation(
    config: EngineConfig, params: SamplingParams, languages: Mapping[str, str]
) -> None:
    """Raises AntiphonError if the model of `config`, which `check_text_settings` returned, cannot
    generate from text with these options."""
    from antiphon.inputs.images.limits import ImageLimits
    from antiphon.inputs.processor import InputProcessor

    checkpoint = _checkpoint(config)
    inputs = InputProcessor(checkpoint, config.encoder.window, ImageLimits.of(config.model))
    inputs.prepare("any text", params, **languages)  # an error for this text is one for all
    _check_length(params, checkpoint.max_decoder_len)
    _check_machine(config, checkpoint)


def _located(config: EngineConfig) -> EngineConfig:
    """Replaces the checkpoint's name by its folder, so that the hub is asked once."""
    folder = locate(config.model.model, config.model.revision)
    return replace(config, model=replace(config.model, model=str(folder)))


def _checkpoint(config: EngineConfig) -> Any:
    from antiphon.families.checkpoint import ModelConfig

    return ModelConfig.load(config.model)


def _check_address(config: EngineConfig) -> None:
    address = config.workers.address or os.environ.get("RAY_ADDRESS")
    if config.workers.ray and address not in (None, "", "local"):
        from antiphon.actors.ray_address import check_reachable

        check_reachable(str(address))


def _check_task(task: str | None) -> None:
    if task is not None and task.strip().lower() not in TASKS:
        raise PromptError(f"unknown task {task[:40]!r}.{nearest(task, list(TASKS))}")


def _check_language(config: EngineConfig, language: str | None, task: str | None) -> None:
    """Checks what the checkpoint's JSON files state. The full check needs transformers, which takes
    seconds to import."""
    settings = stated_generation(config.model)
    if settings.get("is_multilingual") is False:
        check_english_only(language, "transcribe" if task is None else task.strip().lower())
    elif language is not None:
        folder = Path(config.model.model)
        known = dict[str, int]()
        with suppress(CheckpointError):  # added tokens may not be all: loading knows, and reports
            known = language_ids(settings, added_tokens(folder))
        if known:
            language_code(language, known)


def _check_translation(
    config: EngineConfig, architecture: str, languages: Mapping[str, str]
) -> None:
    """Checks names of languages against the tokens that the checkpoint's JSON files state."""
    patterns = families()[architecture].language_tokens
    if languages and not patterns:
        raise PromptError(
            f"this {architecture} knows no languages: leave out {' and '.join(languages)}"
        )
    if languages and (known := language_tokens(patterns, added_tokens(Path(config.model.model)))):
        codes = LanguageCodes(known)
        for option, name in languages.items():
            codes.find(name, option)


def _check_length(params: SamplingParams, max_decoder_len: int) -> None:
    """Raises SamplingError if the engine would refuse every request: a prompt has at least one
    token."""
    if params.max_tokens is not None and params.max_tokens >= max_decoder_len:
        raise SamplingError(
            f"max_tokens={params.max_tokens} and a prompt are over the decoder's "
            f"{max_decoder_len}: lower max_tokens"
        )


def _check_names(config: EngineConfig) -> None:
    """Checks names of attention backends, and the device, as far as that takes no torch. Which
    backends are installed counts only if the workers will run on this machine."""
    requested = _requested(config)
    for name in requested.values():
        backend_row(name)
    if not _runs_here(config):
        return
    check_device(config.model.device)
    on_cpu = config.model.device == "cpu" or not gpu_is_possible()
    for half, name in requested.items():
        check_backend(half, name, on_cpu)


def _requested(config: EngineConfig) -> dict[Literal["encoder", "decoder"], str]:
    """The attention backends that were chosen by name."""
    names: dict[Literal["encoder", "decoder"], str] = {
        "encoder": config.encoder.attention_backend,
        "decoder": config.decoder.attention_backend,
    }
    return {half: name for half, name in names.items() if name != "auto"}


def _check_machine(config: EngineConfig, checkpoint: Any) -> None:
    """Checks a device or an attention backend that was chosen by name, if the workers will run on
    this machine. Imports torch only for such a choice."""
    explicit = _requested(config) or config.model.device == "cuda"
    if not explicit or not _runs_here(config):
        return
    from antiphon.attention.selection import choose
    from antiphon.attention.specs import decoder_specs, encoder_spec
    from antiphon.runtime.device import Target

    target = Target.resolve(config.model, checkpoint.raw, checkpoint.family)
    spec = encoder_spec(checkpoint.encoder, target, options=config.encoder)
    choose("encoder", config.encoder.attention_backend, [spec])
    specs = decoder_specs(checkpoint.decoder, target, config.decoder)
    choose("decoder", config.decoder.attention_backend, specs)


def _runs_here(config: EngineConfig) -> bool:
    """Whether the workers will run on this machine: no Ray cluster will be joined."""
    if not config.workers.ray:
        return True
    cluster = config.workers.address or os.environ.get("RAY_ADDRESS")
    return cluster is None and not RUNNING_CLUSTER.exists()


def probe(recordings: list[Recording]) -> tuple[list[Recording], list[AudioError]]:
    """The recordings that hold sound, and an error for each other one. Does not look into more than
    PROBED_FILES."""
    if len(recordings) > PROBED_FILES:
        return recordings, []
    usable, errors = [], []
    for recording in recordings:
        try:
            _probe(recording)
            usable.append(recording)
        except AudioError as error:
            errors.append(error)
    return usable, errors


def _probe(recording: Recording) -> None:
    path = Path(recording.name).expanduser()
    if recording.name == STANDARD_INPUT or not path.is_file():
        return
    import av

    try:
        with open_media(str(path)) as container:
            if not container.streams.audio:
                raise AudioError(f"{recording.name}: holds no audio stream")
    except (av.FFmpegError, ValueError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise AudioError(f"{recording.name}: not readable as audio ({reason})") from None


def check_timeout(timeout: float | None) -> None:
    if timeout is not None and not timeout > 0:  # nan is not either
        raise ConfigurationError(f"--timeout must be above 0 seconds, not {timeout:g}")
