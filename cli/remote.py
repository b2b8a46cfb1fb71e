"""`--server URL`: a command's work done by a running server, through the client library."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from antiphon.cli.exit_codes import EngineFailed
from antiphon.cli.flags import DataclassFlags
from antiphon.cli.recordings import Recording
from antiphon.config.errors import AntiphonError, ConfigurationError, InputError
from antiphon.inputs.languages.names import NAMES

if TYPE_CHECKING:
    from antiphon import client as http
    from antiphon.client import Client, ClientError, Completion, Transcript
    from antiphon.engine.outputs import Transcription, Word

PANEL = "Server"
CONCURRENCY = 16  # requests at a time


@dataclass(frozen=True)
class ServerFlags:
    """Which server does the work, if any."""

    server: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Let this server work; --model is then its name for a model, or left out.",
            rich_help_panel=PANEL,
        ),
    ] = None
    api_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY", help="The server's. Also ANTIPHON_API_KEY.", rich_help_panel=PANEL
        ),
    ] = None

    def check(self, model: str | None, engine: Mapping[str, Any]) -> None:
        """Raises ConfigurationError for flags that do not go together."""
        if self.server is None:
            if model is None:
                raise ConfigurationError("Missing option '--model' (or --server, which has one)")
            if self.api_key is not None:
                raise ConfigurationError("--api-key is for a server: give --server")
        elif engine:
            raise ConfigurationError(
                f"{', '.join(engine)}: with --server the engine is the server's, and so are its "
                "options"
            )


TARGET = DataclassFlags("target", ServerFlags)


@contextmanager
def client_of(target: ServerFlags, model: str | None) -> "Iterator[Client]":
    """Raises EngineFailed if the server cannot be reached, and ConfigurationError if it refuses the
    key, or has no model of that name."""
    from antiphon.client import Client, ClientError, RequestRejected

    key = target.api_key or os.environ.get("ANTIPHON_API_KEY")
    assert target.server is not None
    try:
        opened = Client(target.server, api_key=key, model=model)
    except ValueError as error:  # a key that no header holds
        raise ConfigurationError(str(error)) from None
    with opened as client:
        try:
            names = [served.id for served in client.models()]
        except RequestRejected as error:
            raise ConfigurationError(f"{target.server}: {error}") from None
        except ClientError as error:
            raise EngineFailed(f"{target.server}: {error}") from None
        if model is not None and model not in names:
            raise ConfigurationError(f"{target.server} has no model {model!r}: {', '.join(names)}")
        yield client


def transcriptions(
    client: "Client",
    recordings: list[Recording],
    *,
    task: str,
    timestamps: bool,
    **options: Any,
) -> "Iterator[tuple[int, Transcription | AntiphonError]]":
    """Each recording's result as it ends, by its number. Raises ConfigurationError."""
    calls = {"transcribe": client.transcribe, "translate": client.translate}
    if (call := calls.get(task.strip().lower())) is None:
        raise ConfigurationError(f"unknown task {task[:40]!r}: transcribe or translate")
    if options.pop("word_timestamps", False):
        if call is calls["translate"]:
            raise ConfigurationError(
                "word_timestamps: a server's translations have no times of words"
            )
        options["timestamp_granularities"] = ["word", "segment"]
    elif not timestamps:
        options["response_format"] = "json"
    sounds = (recording.source() for recording in recordings)
    for item in client.batch(sounds, task=call.__name__, concurrency=CONCURRENCY, **options):
        if item.error is not None:
            yield item.index, _as_own(item.error)
        else:
            yield item.index, _transcription(item.result)


@dataclass(frozen=True)
class Sample:
    """One text of a prompt. `logprobs`: in the form of OpenAI's completions, if requested."""

    index: int
    text: str
    finish_reason: str | None
    logprobs: dict[str, Any] | None = None


@dataclass(frozen=True)
class Generated:
    """What a server made of one prompt, where an engine has `RequestOutput`."""

    outputs: list[Sample]
    error: None = None


def completions(
    client: "Client", prompts: Iterable[str], options: Mapping[str, Any]
) -> "Iterator[tuple[int, Generated | AntiphonError]]":
    """Each prompt's result as it ends, by its number."""
    for item in client.batch(prompts, task="generate", concurrency=CONCURRENCY, **options):
        if item.error is not None:
            yield item.index, _as_own(item.error)
        else:
            yield item.index, _generated(item.result)


def _as_own(error: "Exception | ClientError") -> AntiphonError:
    """An item's error, for its message."""
    return InputError(str(error))


def _generated(result: "Transcript | Completion | None") -> Generated:
    from antiphon.client import Completion

    assert isinstance(result, Completion)
    parts = zip(result.texts, result.finish_reasons, result.logprobs, strict=True)
    return Generated([Sample(index, *part) for index, part in enumerate(parts)])


def _word(word: "http.Word") -> "Word":
    from antiphon.engine.outputs import Word

    return Word(word.start, word.end, word.text, word.probability)


def _transcription(result: "Transcript | Completion | None") -> "Transcription":
    """As an engine returns it."""
    from antiphon.client import Transcript
    from antiphon.engine.outputs import Segment, Transcription

    assert isinstance(result, Transcript)
    codes = {name: code for code, name in NAMES.items()}
    segments = [
        Segment(
            segment.start, segment.end, segment.text, segment.tokens,
            avg_logprob=segment.avg_logprob, no_speech_prob=segment.no_speech_prob,
            words=None if segment.words is None else tuple(map(_word, segment.words)),
        )
        for segment in result.segments
    ]  # fmt: skip
    language = codes.get(result.language or "", result.language)
    return Transcription(result.text, language, segments, result.duration or 0.0)
