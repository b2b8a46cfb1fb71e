"""Where the results of `antiphon transcribe` go, and in which format."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from antiphon.cli.arguments import Json
from antiphon.cli.recordings import OutputFolder, Recording
from antiphon.config.errors import ConfigurationError
from antiphon.engine.output_formats import WRITERS, as_mapping, parse_formats, write_atomically
from antiphon.engine.subtitles import SubtitleRules

if TYPE_CHECKING:
    from antiphon.engine.outputs import Transcription

ONE_STREAM = ("txt", "json")  # formats of which several results can follow each other


@dataclass(frozen=True)
class OutputFlags:
    """Where the results go."""

    output_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write one file per recording and format here."),
    ] = None
    output_format: Annotated[
        str | None,
        typer.Option(
            "--output-format",
            "-f",
            metavar="FORMATS",
            help=f"{', '.join(WRITERS)}, several with commas between, or all "
            "(the default with --output-dir).",
        ),
    ] = None
    skip_existing: Annotated[
        bool,
        typer.Option(
            "--skip-existing", help="Leave out recordings whose files are in --output-dir already."
        ),
    ] = False
    as_json: Json = False
    max_line_width: Annotated[
        int | None, typer.Option(metavar="N", help="Characters in a line of srt and vtt.")
    ] = None
    max_line_count: Annotated[
        int | None, typer.Option(metavar="N", help="Lines in a subtitle of srt and vtt.")
    ] = None
    max_words_per_line: Annotated[
        int | None, typer.Option(metavar="N", help="Words in a subtitle of srt and vtt.")
    ] = None
    highlight_words: Annotated[
        bool,
        typer.Option("--highlight-words", help="Underline each word of srt and vtt in its time."),
    ] = False

    @property
    def subtitles(self) -> SubtitleRules:
        """Raises ConfigurationError."""
        return SubtitleRules(
            self.max_line_width, self.max_line_count, self.max_words_per_line, self.highlight_words
        )


@dataclass(frozen=True)
class Output:
    """Files of a folder, or standard output in one format."""

    folder: OutputFolder | None
    format: str
    skip_existing: bool
    subtitles: SubtitleRules

    @classmethod
    def of(cls, flags: OutputFlags) -> "Output":
        """Raises ConfigurationError for flags that exclude each other."""
        formats, rules = flags.output_format, flags.subtitles
        if flags.output_dir is not None:
            if flags.as_json:
                raise ConfigurationError(
                    "--json writes to standard output: use --output-format json"
                )
            names = parse_formats("all" if formats is None else formats)
            return cls(OutputFolder(flags.output_dir, names), "", flags.skip_existing, rules)
        if flags.skip_existing:
            raise ConfigurationError("--skip-existing needs --output-dir: what would exist?")
        default = "json" if flags.as_json else "txt"
        names = parse_formats(default if formats is None else formats)
        if len(names) > 1:
            raise ConfigurationError("several output formats need --output-dir")
        if flags.as_json and names != ["json"]:
            raise ConfigurationError(f"--json and --output-format {names[0]} exclude each other")
        return cls(None, names[0], False, rules)

    def check_words(self, asked: bool) -> None:
        """Raises ConfigurationError for rules of subtitles that need words. `asked`: they come."""
        if (names := self.subtitles.needs_words) and not asked:
            flag = names[0].replace("_", "-")
            raise ConfigurationError(f"--{flag} needs the times of words: add --word-timestamps")

    def wanted(self, recordings: list[Recording]) -> list[Recording]:
        """The recordings to transcribe: with --skip-existing, those without results. Raises
        ConfigurationError if results would overwrite each other, or could not be told apart."""
        if self.folder is not None:
            self.folder.check(recordings)
            if self.skip_existing:
                return [item for item in recordings if not self.folder.holds(item)]
        elif len(recordings) > 1 and self.format not in ONE_STREAM:
            raise ConfigurationError(
                f"--output-format {self.format} of several recordings needs --output-dir"
            )
        return recordings

    def write(self, recording: Recording, result: "Transcription") -> str | None:
        """Writes a result's files. Returns the error's message if that fails: a full disk, a
        deleted folder."""
        assert self.folder is not None
        for name, path in self.folder.paths(recording).items():
            try:
                write_atomically(path, WRITERS[name](result, self.subtitles))
            except OSError as error:
                return f"{recording.name}: {path}: {error.strerror or error}"
        return None

    def text(self, recording: Recording, result: "Transcription", several: bool) -> str:
        """For standard output, without the last line feed."""
        if self.format == "json":
            return json.dumps({"file": recording.name, **as_mapping(result)}, ensure_ascii=False)
        if self.format == "txt":
            return f"{recording.name}: {result.text}" if several else result.text
        return WRITERS[self.format](result, self.subtitles).rstrip("\n")


def lost(result: "Transcription") -> str:
    """A sentence about the parts that could not be read; empty if there are none. Silence is no
    loss."""
    spans = [span for span in result.skipped if span.reason in ("undecodable", "missing")]
    if not spans:
        return ""
    seconds = sum(span.end - span.start for span in spans)
    whole = max(result.duration, spans[-1].end)  # what is missing at the end has no samples
    first = spans[0]
    return (
        f"{seconds:.1f} of {whole:.1f} s could not be read "
        f"({first.reason} from {first.start:.1f} s on)"
    )
