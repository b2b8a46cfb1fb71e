"""Where the results of `antiphon transcribe` go, and how they look there."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from antiphon.cli.output_formats import WRITERS, parse_formats, write_atomically
from antiphon.cli.recordings import OutputFolder, Recording
from antiphon.config.errors import ConfigurationError

if TYPE_CHECKING:
    from antiphon.engine.outputs import Transcription

ONE_STREAM = ("txt", "json")  # formats of which several results can follow each other


@dataclass(frozen=True)
class Output:
    """Files of a folder, or standard output in one format."""

    folder: OutputFolder | None
    format: str

    @classmethod
    def of(
        cls, folder: Path | None, formats: str | None, skip_existing: bool, as_json: bool
    ) -> "Output":
        """From flags. Raises ConfigurationError for those that exclude each other."""
        if folder is not None:
            if as_json:
                raise ConfigurationError(
                    "--json writes to standard output: use --output-format json"
                )
            return cls(
                OutputFolder(folder, parse_formats("all" if formats is None else formats)), ""
            )
        if skip_existing:
            raise ConfigurationError("--skip-existing needs --output-dir: what would exist?")
        default = "json" if as_json else "txt"
        names = parse_formats(default if formats is None else formats)
        if len(names) > 1:
            raise ConfigurationError("several output formats need --output-dir")
        if as_json and names != ["json"]:
            raise ConfigurationError(f"--json and --output-format {names[0]} exclude each other")
        return cls(None, names[0])

    def wanted(self, recordings: list[Recording], skip_existing: bool) -> list[Recording]:
        """Those whose results are not there yet. Raises ConfigurationError where results would
        overwrite each other, or can't be told apart."""
        if self.folder is not None:
            self.folder.check(recordings)
            if skip_existing:
                return [each for each in recordings if not self.folder.holds(each)]
        elif len(recordings) > 1 and self.format not in ONE_STREAM:
            raise ConfigurationError(
                f"--output-format {self.format} of several recordings needs --output-dir"
            )
        return recordings

    def write(self, recording: Recording, result: "Transcription") -> str | None:
        """Into the folder; an error's message where that fails: a full disk, a folder that has
        gone."""
        assert self.folder is not None
        for name, path in self.folder.paths(recording).items():
            try:
                write_atomically(path, WRITERS[name](result))
            except OSError as error:
                return f"{recording.name}: {path}: {error.strerror or error}"
        return None

    def text(self, recording: Recording, result: "Transcription", several: bool) -> str:
        """For standard output, without the last line feed."""
        if self.format == "json":
            return json.dumps({"file": recording.name, **asdict(result)}, ensure_ascii=False)
        if self.format == "txt":
            return f"{recording.name}: {result.text}" if several else result.text
        return WRITERS[self.format](result).rstrip("\n")


def lost(result: "Transcription") -> str:
    """What of the recording could not be read; silence that was left out is no loss."""
    spans = [span for span in result.skipped if span.reason != "digital silence"]
    if not spans:
        return ""
    seconds = sum(span.end - span.start for span in spans)
    whole = max(result.duration, spans[-1].end)  # what is missing at the end has no samples
    first = spans[0]
    return (
        f"{seconds:.1f} of {whole:.1f} s could not be read "
        f"({first.reason} from {first.start:.1f} s on)"
    )
