"""The command `antiphon`. Errors are one line and a hint, never a traceback."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from antiphon.client.bench.commands import app as bench
from antiphon.client.pairs import EngineOption, parse_pairs
from antiphon.config.errors import AntiphonError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Serve encoder/decoder models on Ray."
)

app.add_typer(bench, name="bench")

Json = Annotated[bool, typer.Option("--json", help="One JSON object per line.")]


@app.command()
def transcribe(
    files: Annotated[list[Path], typer.Argument(help="Sound files, any format.")],
    model: Annotated[str, typer.Option(help="Hub id or checkpoint folder.")],
    language: Annotated[str | None, typer.Option(help="Language code; found by itself when left out.")] = None,
    task: Annotated[str, typer.Option(help="transcribe, or translate into English.")] = "transcribe",
    timestamps: Annotated[bool, typer.Option(help="Let the model mark its segments.")] = True,
    chunk_seconds: Annotated[
        float | None, typer.Option(help="Longest piece between two cuts; the model's window when left out.")
    ] = None,
    as_json: Json = False,
    option: EngineOption = [],  # noqa: B006 (typer copies it)
) -> None:
    """Transcribes recordings of any length. Ends with 1 when any of them failed."""
    from antiphon import Engine

    failed = False
    with Engine(model, **parse_pairs(option, "--option")) as engine:
        results = engine.transcribe_all(files, language=language, task=task, timestamps=timestamps, chunk_seconds=chunk_seconds)
    for file, result in zip(files, results, strict=True):
        if isinstance(result, AntiphonError):
            failed = True
            print(f"antiphon: {result}", file=sys.stderr)
        elif as_json:
            print(json.dumps({"file": str(file), **asdict(result)}, ensure_ascii=False))
        else:
            print(f"{file}: {result.text}" if len(files) > 1 else result.text)
    if failed:
        raise typer.Exit(1)


@app.command()
def generate(
    prompts: Annotated[list[str] | None, typer.Argument(help="Texts; read from standard input, one a line, when left out.")] = None,
    model: Annotated[str, typer.Option(help="Hub id or checkpoint folder.")] = ...,  # type: ignore[assignment]
    sampling: Annotated[
        list[str], typer.Option("--sampling", "-s", metavar="NAME=VALUE", help="A sampling parameter; may be repeated.")
    ] = [],  # noqa: B006
    as_json: Json = False,
    option: EngineOption = [],  # noqa: B006
) -> None:
    """Text in, text out: T5, BART, Marian, NLLB and their kin. Ends with 1 when any prompt failed."""
    from antiphon import Engine, SamplingParams

    params = SamplingParams.of(parse_pairs(sampling, "--sampling"))
    texts = prompts or [line.rstrip("\n") for line in sys.stdin]
    failed = False
    with Engine(model, **parse_pairs(option, "--option")) as engine:
        results = engine.generate(texts, params)
    for text, result in zip(texts, results, strict=True):
        if result.error is not None:
            failed = True
            print(f"antiphon: {text[:40]!r}: {result.error}", file=sys.stderr)
        elif as_json:
            print(json.dumps({"prompt": text, "outputs": [asdict(each) for each in result.outputs]}, ensure_ascii=False))
        else:
            for each in result.outputs:
                print(each.text)
    if failed:
        raise typer.Exit(1)


@app.command()
def info(
    model: Annotated[str | None, typer.Option(help="Also show this checkpoint and its attention layers.")] = None,
    option: EngineOption = [],  # noqa: B006
) -> None:
    """Devices, attention backends and why each is or isn't usable here, supported architectures."""
    from antiphon.client.info import describe_machine, describe_model

    print(describe_machine())
    if model is not None:
        print("\n" + describe_model(model, parse_pairs(option, "--option")))


def main() -> None:
    try:
        app()
    except AntiphonError as error:
        print(f"antiphon: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
