"""`antiphon batch`."""

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from antiphon.cli import interrupt, preflight
from antiphon.cli.arguments import Model, Quiet, Timeout
from antiphon.cli.batch_progress import in_a_sentence, shown_progress, summary_of
from antiphon.cli.console import logs_on_stderr
from antiphon.cli.exit_codes import SOME_LINES_FAILED, EngineFailed
from antiphon.cli.flags import ENGINE, SAMPLING, DataclassFlags, with_flags
from antiphon.config.errors import AntiphonError, ConfigurationError, PromptError
from antiphon.config.sampling import SamplingParams

if TYPE_CHECKING:
    from antiphon.jobs.formats import Format
    from antiphon.jobs.manifest import Manifest
    from antiphon.jobs.meter import Meter
    from antiphon.jobs.output import Output

logger = logging.getLogger(__name__)

MAX_IN_FLIGHT, LINES_PER_SLOT = 2048, 4
UPLOAD_SECONDS = 10.0  # for an interrupted run to save its results in an object store


@dataclass(frozen=True)
class LineFlags:
    """What holds for every line that does not say otherwise."""

    language: Annotated[
        str | None, typer.Option(help="What is spoken; detected when left out.")
    ] = None
    task: Annotated[
        str | None, typer.Option(help="transcribe (the default), or translate into English.")
    ] = None
    timestamps: Annotated[
        bool | None,
        typer.Option("--timestamps/--no-timestamps", help="Let the model mark its segments."),
    ] = None
    chunk_seconds: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Longest piece of a recording between two cuts."),
    ] = None
    source_language: Annotated[
        str | None, typer.Option(help="Of the texts, for NLLB, M2M-100 and mBART.")
    ] = None
    target_language: Annotated[
        str | None, typer.Option(help="To write in, for NLLB, M2M-100, mBART and Marian.")
    ] = None
    timeout: Timeout = None

    def of_kind(self, speech: bool) -> dict[str, Any]:
        """The options that were typed. Raises ConfigurationError for those of the other kind of
        model."""
        typed = {name: value for name, value in vars(self).items() if value is not None}
        of_text = ("source_language", "target_language")
        of_speech = ("language", "task", "timestamps", "chunk_seconds")
        for name in of_text if speech else of_speech:
            if name in typed:
                flag, kind = name.replace("_", "-"), "text" if speech else "speech"
                raise ConfigurationError(f"--{flag} is for {kind} models, and this is none")
        return typed


@dataclass(frozen=True)
class FolderFlags:
    """Where the results go, and how a run goes on in a folder of an earlier one."""

    format: Annotated[
        str, typer.Option("--format", "-f", metavar="[jsonl|parquet]", help="Of the results.")
    ] = "jsonl"
    shard_lines: Annotated[
        int, typer.Option(metavar="N", min=1, help="Results in one file of the folder.")
    ] = 10_000
    in_flight: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Lines that are open at a time; by default four for each place in the batch.",
        ),
    ] = None
    max_failed: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Give up when more lines than this have failed."),
    ] = None
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try the lines in errors.jsonl again.")
    ] = False
    allow_changes: Annotated[
        bool,
        typer.Option(
            "--allow-changes",
            help="Go on in DIR although the manifest or the settings have changed.",
        ),
    ] = False


ManifestName = Annotated[
    str,
    typer.Argument(
        metavar="MANIFEST",
        help="JSON lines: a path, an address such as s3://..., or - for standard input.",
    ),
]
OutputFolder = Annotated[
    str,
    typer.Option("--output", metavar="DIR", help="Folder of the results: a path or an address."),
]
LINES = DataclassFlags("line_flags", LineFlags)
FOLDER = DataclassFlags("folder", FolderFlags)


@with_flags(FOLDER, LINES, ENGINE, SAMPLING)
def batch(
    manifest: ManifestName,
    model: Model,
    output: OutputFolder,
    folder: FolderFlags,
    line_flags: LineFlags,
    engine: dict[str, Any],
    sampling: dict[str, Any],
    quiet: Quiet = False,
) -> None:
    """Transcribe or generate for each line of a manifest. Can be killed and started again. The
    exit code is 3 if some lines failed, which errors.jsonl in the output folder explains.

    \b
    antiphon batch calls.jsonl -m openai/whisper-small --output texts
    antiphon batch s3://bucket/m.jsonl -m turbo --output s3://bucket/texts -f parquet
    """
    from antiphon.jobs.formats import format_of
    from antiphon.jobs.manifest import Manifest

    preflight.check_timeout(line_flags.timeout)
    params = SamplingParams.of(sampling)
    preflight.check_options(model, engine)
    speech = preflight.takes_audio(model, engine)
    options = line_flags.of_kind(speech)
    form = format_of(folder.format)
    with logs_on_stderr(quiet), Manifest(manifest) as lines:
        lines.check()
        logger.info("reading the configuration of %s", model)
        _check_model(model, engine, speech, options, params)
        job = _Job(model, engine, speech, options, sampling, folder, quiet)
        failed = job.run(lines, form, output)
    if failed:
        raise typer.Exit(SOME_LINES_FAILED)


def _check_model(
    model: str,
    engine: dict[str, Any],
    speech: bool,
    options: dict[str, Any],
    params: SamplingParams,
) -> None:
    """Raises AntiphonError if this model can serve no line with these options."""
    if speech:
        preflight.check_transcription(model, engine, **options, params=params)
        return
    languages = {name: code for name, code in options.items() if name.endswith("_language")}
    config = preflight.check_text_settings(model, engine, params, languages)
    try:
        preflight.check_generation(config, params, languages)
    except PromptError:
        if languages:
            raise  # else each line may name its own


@dataclass(frozen=True)
class _Job:
    """One run. `options` and `sampling` hold for all lines that do not say otherwise."""

    model: str
    engine: dict[str, Any]
    speech: bool
    options: dict[str, Any]
    sampling: dict[str, Any]
    folder: FolderFlags
    quiet: bool

    def run(self, manifest: "Manifest", form: "Format", folder: str) -> bool:
        """True if some lines have failed, in this run or an earlier one."""
        from antiphon.jobs.identity import job, open_output

        survey = manifest.survey()
        with open_output(
            folder,
            form,
            job(survey, self._settings()),
            shard_lines=self.folder.shard_lines,
            allow_changes=self.folder.allow_changes,
            retry_failed=self.folder.retry_failed,
        ) as output:
            self._go_on(manifest, output, survey.lines)
        if failed := output.counts.failed:
            logger.warning("%d lines failed: see %s/errors.jsonl", failed, output.storage.url)
        return failed > 0

    def _go_on(self, manifest: "Manifest", output: "Output", lines: int) -> None:
        """Does the lines that are not done, and finishes the output."""
        if done := len(output.done):
            logger.info("%s: %d of %d lines are done", output.storage.url, done, lines)
        any_left = next(manifest.lines(output.done), None) is not None
        if not any_left and output.finished:
            logger.info("nothing to do: all lines are done")
            return
        meter = self._do(manifest, output, lines) if any_left else None
        summary = summary_of(manifest.name, self.model, lines, output.counts, meter)
        output.finish(summary)
        logger.info("%s", in_a_sentence(summary))

    def _settings(self) -> dict[str, Any]:
        """What decides about the texts, by the names of the flags."""
        from antiphon.jobs.identity import TEXT_OPTIONS

        local = Path(self.model).expanduser()
        options = {name: value for name, value in self.options.items() if name != "timeout"}
        return {
            "model": str(local.resolve()) if local.is_dir() else self.model,
            "format": self.folder.format,
            **options,
            **self.sampling,
            **{name: self.engine[name] for name in TEXT_OPTIONS if name in self.engine},
        }

    def _do(self, manifest: "Manifest", output: "Output", total: int) -> "Meter":
        """The lines that are not done. Raises EngineFailed if it cannot go on."""
        url = output.storage.url

        def advice() -> str:
            return (
                f"{len(output.done):,} of {total:,} lines are done and stay in {url}; "
                "the same command goes on with the others"
            )

        output.begin()
        interrupt.advise(advice, UPLOAD_SECONDS if "://" in url else interrupt.UNWIND_SECONDS)
        try:
            with asyncio.Runner() as runner:
                try:
                    return runner.run(self._with_engine(manifest, output, total))
                finally:
                    output.save()
        except AntiphonError as error:
            raise EngineFailed(f"{error}\nantiphon: {advice()}") from error
        finally:
            interrupt.advise(None)

    async def _with_engine(self, manifest: "Manifest", output: "Output", total: int) -> "Meter":
        from antiphon.engine.async_engine import AsyncEngine
        from antiphon.jobs.batch import Batch
        from antiphon.jobs.entries import Defaults
        from antiphon.jobs.meter import Meter
        from antiphon.jobs.work import Work

        async with AsyncEngine(self.model, **self.engine) as engine:
            audio = engine.inputs.audio
            work = Work(engine, audio.sampling_rate if audio else None, manifest.folder)
            scheduler, decoder = engine.config.scheduler, engine.config.decoder
            fitting = LINES_PER_SLOT * scheduler.max_num_seqs * decoder.replicas
            meter = Meter(total, len(output.done), output.counts.failed)
            batch = Batch(
                manifest.lines(output.done),
                work.perform,
                output,
                meter,
                Defaults(self.speech, self.options, self.sampling),
                in_flight=self.folder.in_flight or min(MAX_IN_FLIGHT, fitting),
                max_failed=self.folder.max_failed,
            )
            with shown_progress(meter, self.quiet):
                await batch.run()
        return meter
