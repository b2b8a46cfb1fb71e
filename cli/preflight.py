"""Checks before an engine starts, which takes long: options, the kind of model, languages, devices,
attention backends, kinds of files."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from antiphon.cli.recordings import STANDARD_INPUT, Recording
from antiphon.config.errors import (
    AudioError,
    ConfigurationError,
    PromptError,
    SamplingError,
    nearest,
)
from antiphon.config.locate import locate
from antiphon.config.options import EngineConfig, resolve
from antiphon.config.sampling import SamplingParams
from antiphon.families.checkpoint import architecture_of, stated_generation
from antiphon.families.registry import families
from antiphon.inputs.languages.lookup import language_code
from antiphon.inputs.whisper.format import check_english_only
from antiphon.inputs.whisper.tokens import TASKS, added_tokens, language_ids

PROBED_FILES = 32  # opening more would delay the first result
RUNNING_CLUSTER = Path("/tmp/ray/ray_current_cluster")  # written by Ray


def check_options(model: str, engine: Mapping[str, Any]) -> None:
    """Raises ConfigurationError for engine options that are wrong for any model."""
    resolve(model, engine)


def check_transcription(model: str, engine: Mapping[str, Any], **options: Any) -> None:
    """Raises AntiphonError if this model cannot transcribe with these `options` of transcribe()."""
    config = _located(resolve(model, engine))
    architecture, reads = architecture_of(config.model)
    if reads != "audio":
        raise PromptError(f"{model} ({architecture}) reads text: use `antiphon generate` for it")
    _check_address(config)
    _check_task(options.get("task"))
    _check_language(config, options.get("language"), options.get("task"))
    if options.get("params") is not None:
        from antiphon.inputs.calls.transcription import one_sample  # imports numpy

        one_sample(options["params"])
    from antiphon.inputs.processor import InputProcessor

    checkpoint = _checkpoint(config)
    inputs = InputProcessor(checkpoint, config.encoder.window)
    checked = inputs.check_transcription(**options)
    _check_length(checked.params, checkpoint)
    _check_machine(config, checkpoint)


def check_generation(
    model: str, engine: Mapping[str, Any], params: SamplingParams, languages: Mapping[str, str]
) -> None:
    """Raises AntiphonError if this model cannot generate from text with these options."""
    config = _located(resolve(model, engine))
    architecture, reads = architecture_of(config.model)
    if reads == "audio":
        raise PromptError(f"{model} ({architecture}) listens: use `antiphon transcribe` for it")
    if languages and not families()[architecture].language_tokens:
        raise PromptError(
            f"this {architecture} knows no languages: leave out {' and '.join(languages)}"
        )
    _check_address(config)
    from antiphon.inputs.processor import InputProcessor

    checkpoint = _checkpoint(config)
    inputs = InputProcessor(checkpoint, config.encoder.window)
    inputs.prepare("any text", params, **languages)  # an error for this text is one for all
    _check_length(params, checkpoint)
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
        from antiphon.actors.session import check_reachable

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
        if known := language_ids(settings, added_tokens(folder)):
            language_code(language, known)


def _check_length(params: SamplingParams, checkpoint: Any) -> None:
    """Raises SamplingError if the engine would refuse every request: a prompt has at least one
    token."""
    if params.max_tokens is not None and params.max_tokens >= checkpoint.max_decoder_len:
        raise SamplingError(
            f"max_tokens={params.max_tokens} and a prompt are over the decoder's "
            f"{checkpoint.max_decoder_len}: lower max_tokens"
        )


def _check_machine(config: EngineConfig, checkpoint: Any) -> None:
    """Checks a device or an attention backend that was chosen by name, if the workers will run on
    this machine. Imports torch only for such a choice."""
    requested = (config.encoder.attention_backend, config.decoder.attention_backend)
    explicit = any(name != "auto" for name in requested)
    if not explicit and config.model.device != "cuda":
        return
    from antiphon.attention.selection import missing

    for name in requested:
        if name != "auto":
            missing(name)  # raises for a name that does not exist, on whatever machine
    if not _runs_here(config):
        return
    from antiphon.attention.selection import choose
    from antiphon.attention.specs import decoder_specs, encoder_spec
    from antiphon.runtime.device import Target

    target = Target.resolve(config.model, checkpoint.raw, checkpoint.family)
    choose("encoder", requested[0], [encoder_spec(checkpoint.encoder, target)])
    choose("decoder", requested[1], decoder_specs(checkpoint.decoder, target, config.decoder))


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
        # Absolute, or FFmpeg takes what stands before a colon in the name for a protocol.
        with av.open(os.path.abspath(path), metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise AudioError(f"{recording.name}: holds no audio stream")
    except (av.FFmpegError, ValueError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise AudioError(f"{recording.name}: not readable as audio ({reason})") from None


def check_timeout(timeout: float | None) -> None:
    if timeout is not None and timeout <= 0:
        raise ConfigurationError(f"--timeout must be above 0 seconds, not {timeout:g}")
