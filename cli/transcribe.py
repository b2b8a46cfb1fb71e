"""`antiphon transcribe`."""

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from antiphon.cli import preflight
from antiphon.cli.arguments import Json, Model, Quiet, Timeout
from antiphon.cli.console import Console, logs_on_stderr
from antiphon.cli.flags import ENGINE, SAMPLING, takes
from antiphon.cli.output_formats import WRITERS, parse_formats, write_atomically
from antiphon.cli.recordings import OutputFolder, Recording, expand
from antiphon.config.errors import AntiphonError, ConfigurationError
from antiphon.config.sampling import SamplingParams

if TYPE_CHECKING:
    from antiphon.engine.outputs import Transcription

logger = logging.getLogger(__name__)

ONE_STREAM = ("txt", "json")  # formats of which several results can follow each other


@takes(ENGINE, SAMPLING)
def transcribe(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILES",
            help="Sound or video files in any format, folders, 'quoted patterns', @lists of files, or - for standard input.",
        ),
    ],
    model: Model,
    engine: dict[str, Any],
    sampling: dict[str, Any],
    language: Annotated[str | None, typer.Option(help="What is spoken; found by itself when left out.")] = None,
    task: Annotated[str, typer.Option(help="transcribe, or translate into English.")] = ("transcribe"),
    timestamps: Annotated[bool, typer.Option(help="Let the model mark its segments.")] = True,
    chunk_seconds: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Longest piece between two cuts; the model's window when left out.",
        ),
    ] = None,
    timeout: Timeout = None,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Search folders within folders too.")] = False,
    output_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write one file per recording and format here."),
    ] = None,
    output_format: Annotated[
        str | None,
        typer.Option(
            "--output-format",
            "-f",
            metavar="FORMATS",
            help=f"{', '.join(WRITERS)}, several with commas between, or all (the default with --output-dir).",
        ),
    ] = None,
    skip_existing: Annotated[
        bool,
        typer.Option("--skip-existing", help="Leave out recordings whose files are in --output-dir already."),
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Transcribe recordings of any length. The exit code is 1 if any of them failed.

    \b
    antiphon transcribe call.mp3 -m openai/whisper-tiny
    antiphon transcribe calls/ -m openai/whisper-small --output-dir texts -f srt,txt
    ffmpeg ... | antiphon transcribe - -m openai/whisper-base --language de --json
    """
    output = _output(output_dir, output_format, skip_existing, as_json)
    params = SamplingParams.of(sampling) if sampling else None
    preflight.check_timeout(timeout)
    recordings, errors = expand(files, recursive)
    if output.folder is not None:
        output.folder.check(recordings)
        if skip_existing:
            recordings = [each for each in recordings if not output.folder.holds(each)]
    elif len(recordings) > 1 and output.format not in ONE_STREAM:
        raise ConfigurationError(f"--output-format {output.format} of several recordings needs --output-dir")
    recordings, unreadable = preflight.probe(recordings)
    errors += unreadable
    with logs_on_stderr(quiet), Console(quiet, len(recordings), "file") as console:
        for error in errors:
            console.error(error)
        failed = bool(errors)
        if recordings:
            logger.info("reading the configuration of %s", model)
            options = {
                "language": language,
                "task": task,
                "timestamps": timestamps,
                "chunk_seconds": chunk_seconds,
                "params": params,
                "timeout": timeout,
            }
            preflight.check_transcription(model, engine, **options)
            failed |= _run(console, output, recordings, model, engine, options)
        elif not errors:
            logger.info("nothing to do: all output files exist")
    if failed:
        raise typer.Exit(1)


def _run(
    console: Console,
    output: "Output",
    recordings: list[Recording],
    model: str,
    engine: dict[str, Any],
    options: dict[str, Any],
) -> bool:
    """Shows each result as it is made. True if any recording failed."""
    from antiphon.engine.sync_engine import Engine

    def sources() -> Iterator[Path | bytes]:
        for recording in recordings:
            yield recording.source()

    failed = False
    with Engine(model, **engine) as running:
        for index, result in running.transcribe_as_completed(sources(), **options):
            recording = recordings[index]
            if isinstance(result, AntiphonError):
                failed = True
                console.error(_named(recording, result))
                console.advance()
                continue
            if lost := _lost(result):
                logger.warning("%s: %s", recording.name, lost)
            if output.folder is not None:
                try:
                    for name, path in output.folder.paths(recording).items():
                        write_atomically(path, WRITERS[name](result))
                except OSError as error:  # a full disk, a folder that has gone
                    failed = True
                    console.error(f"{recording.name}: {path}: {error.strerror or error}")
            else:
                console.result(output.text(recording, result, len(recordings) > 1))
            console.advance()
    return failed


@dataclass(frozen=True)
class Output:
    """Where results go: files of a folder, or standard output in one format (None: plain text)."""

    folder: OutputFolder | None
    format: str

    def text(self, recording: Recording, result: "Transcription", several: bool) -> str:
        """For standard output, without the last line feed."""
        if self.format == "json":
            return json.dumps({"file": recording.name, **asdict(result)}, ensure_ascii=False)
        if self.format == "txt":
            return f"{recording.name}: {result.text}" if several else result.text
        return WRITERS[self.format](result).rstrip("\n")


def _output(folder: Path | None, formats: str | None, skip_existing: bool, json: bool) -> Output:
    if folder is not None:
        if json:
            raise ConfigurationError("--json writes to standard output: use --output-format json")
        return Output(OutputFolder(folder, parse_formats(formats or "all")), "")
    if skip_existing:
        raise ConfigurationError("--skip-existing needs --output-dir: what would exist?")
    names = parse_formats(formats) if formats else ["json" if json else "txt"]
    if len(names) > 1:
        raise ConfigurationError("several output formats need --output-dir")
    if json and names != ["json"]:
        raise ConfigurationError(f"--json and --output-format {names[0]} exclude each other")
    return Output(None, names[0])


def _lost(result: "Transcription") -> str:
    """What of the recording could not be read; silence that was left out is no loss."""
    spans = [span for span in result.skipped if span.reason != "digital silence"]
    if not spans:
        return ""
    seconds = sum(span.end - span.start for span in spans)
    first = spans[0]
    return f"{seconds:.1f} of {result.duration:.1f} s could not be read ({first.reason} from {first.start:.1f} s on)"


def _named(recording: Recording, error: AntiphonError) -> str:
    """The message, with the recording's name in front unless it is there."""
    message = str(error)
    return message if message.startswith(recording.name) else f"{recording.name}: {message}"
