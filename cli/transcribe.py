"""`antiphon transcribe`."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from antiphon.cli import preflight
from antiphon.cli.arguments import ModelOrServers, Quiet
from antiphon.cli.console import Console, logs_on_stderr
from antiphon.cli.exit_codes import FAILED, engine_errors
from antiphon.cli.flags import ENGINE, SAMPLING, DataclassFlags, with_flags, without
from antiphon.cli.output import Output, OutputFlags, lost
from antiphon.cli.recordings import Recording, expand
from antiphon.cli.remote import TARGET, ServerFlags, client_of, transcriptions
from antiphon.cli.speech_flags import (
    SPEECH,
    TRANSCRIPTION,
    WHISPER,
    SpeechFlags,
    WhisperFlags,
    transcription_options,
)
from antiphon.config.errors import AntiphonError
from antiphon.config.sampling import SamplingParams

logger = logging.getLogger(__name__)


Files = Annotated[
    list[str],
    typer.Argument(
        metavar="FILES",
        help="Sound or video files in any format, folders, 'quoted patterns', @lists of files, "
        "or - for standard input.",
    ),
]
Recursive = Annotated[
    bool, typer.Option("--recursive", "-r", help="Search folders within folders too.")
]
OUTPUT = DataclassFlags("output_flags", OutputFlags)
# The temperature of speech is a list of them: it is a flag of TRANSCRIPTION.
SAMPLING_OF_SPEECH = replace(
    without(SAMPLING, "temperature"),
    listed=("beam_size", "patience", "length_penalty", "max_tokens", "top_p", "seed"),
)


@with_flags(TARGET, SPEECH, OUTPUT, WHISPER, TRANSCRIPTION, ENGINE, SAMPLING_OF_SPEECH)
def transcribe(
    files: Files,
    target: ServerFlags,
    speech: SpeechFlags,
    output_flags: OutputFlags,
    whisper: WhisperFlags,
    transcription: dict[str, Any],
    engine: dict[str, Any],
    sampling: dict[str, Any],
    model: ModelOrServers = None,
    recursive: Recursive = False,
    quiet: Quiet = False,
) -> None:
    """Transcribe recordings of any length. The exit code is 1 if any of them failed.

    \b
    antiphon transcribe call.mp3 -m openai/whisper-tiny
    antiphon transcribe calls/ -m openai/whisper-small --output-dir texts -f srt,txt
    ffmpeg ... | antiphon transcribe - -m openai/whisper-base --language de --json
    antiphon transcribe call.mp3 --server http://asr.example.com:8000
    """
    model, engine = whisper.applied(model, engine)
    target.check(model, engine)
    spoken = transcription_options(transcription)
    output = Output.of(output_flags)
    output.check_words(bool(spoken.get("word_timestamps")))
    params = SamplingParams.of(sampling) if sampling else None
    preflight.check_timeout(speech.timeout)
    if target.server is None:
        preflight.check_options(_present(model), engine)
    recordings, errors = expand(files, recursive)
    recordings = output.wanted(recordings)
    if target.server is None:  # a server has no need of what reads files here
        recordings, unreadable = preflight.probe(recordings)
        errors += unreadable
    with logs_on_stderr(quiet), Console(quiet, len(recordings), "file") as console:
        for error in errors:
            console.error(error)
        failed = bool(errors)
        if recordings and target.server is not None:
            with client_of(target, model) as client:
                options = {**vars(speech), **spoken, **sampling}
                results = transcriptions(client, recordings, **options)
                failed |= _show_all(console, output, recordings, results)
        elif recordings:
            logger.info("reading the configuration of %s", model)
            options = {**vars(speech), **spoken, "params": params}
            preflight.check_transcription(_present(model), engine, **options)
            failed |= _run(console, output, recordings, _present(model), engine, options)
        elif not errors:
            logger.info("nothing to do: all output files exist")
    if failed:
        raise typer.Exit(FAILED)


def _present(model: str | None) -> str:
    assert model is not None  # or `ServerFlags.check` had refused it
    return model


def _run(
    console: Console,
    output: Output,
    recordings: list[Recording],
    model: str,
    engine: dict[str, Any],
    options: dict[str, Any],
) -> bool:
    """Transcribes here, and shows each result as it is made. True if any recording failed."""
    from antiphon.engine.sync_engine import Engine
    from antiphon.runtime.garbage import frozen_heap

    def sources() -> Iterator[Path | bytes]:
        for recording in recordings:
            yield recording.source()

    with engine_errors(), Engine(model, **engine) as running, frozen_heap():
        results = running.transcribe_as_completed(sources(), progress=console.progress, **options)
        return _show_all(console, output, recordings, results)


def _show_all(
    console: Console,
    output: Output,
    recordings: list[Recording],
    results: Iterable[tuple[int, Any]],
) -> bool:
    """Shows each result when it comes. True if any recording failed."""
    failed = False
    for index, result in results:
        recording = recordings[index]
        if isinstance(result, AntiphonError):
            error: str | None = _named(recording, result)
        else:
            error = _show(console, output, recording, result, len(recordings) > 1)
        if error is not None:
            failed = True
            console.error(error)
        console.advance()
    return failed


def _show(
    console: Console, output: Output, recording: Recording, result: Any, several: bool
) -> str | None:
    """Writes a transcription to its files or standard output. Returns the message if that fails."""
    if loss := lost(result):
        logger.warning("%s: %s", recording.name, loss)
    if output.folder is not None:
        return output.write(recording, result)
    console.result(output.text(recording, result, several))
    return None


def _named(recording: Recording, error: AntiphonError) -> str:
    """The message, with the recording's name in front unless it begins with it."""
    message = str(error)
    return message if message.startswith(recording.name) else f"{recording.name}: {message}"
