"""`antiphon generate`."""

import io
import json
import logging
import sys
from collections.abc import Iterable
from dataclasses import asdict
from typing import Annotated, Any

import typer

from antiphon.cli import preflight
from antiphon.cli.arguments import Json, ModelOrServers, Quiet, Timeout
from antiphon.cli.console import Console, logs_on_stderr
from antiphon.cli.exit_codes import FAILED, engine_errors
from antiphon.cli.flags import ENGINE, SAMPLING, with_flags
from antiphon.cli.remote import TARGET, ServerFlags, client_of, completions
from antiphon.config.errors import AntiphonError
from antiphon.config.sampling import SamplingParams

logger = logging.getLogger(__name__)


@with_flags(TARGET, ENGINE, SAMPLING)
def generate(
    target: ServerFlags,
    engine: dict[str, Any],
    sampling: dict[str, Any],
    prompts: Annotated[
        list[str] | None,
        typer.Argument(metavar="PROMPTS", help="Texts; standard input, one a line, when left out."),
    ] = None,
    model: ModelOrServers = None,
    source_language: Annotated[
        str | None, typer.Option(help="Of the prompts, for NLLB, M2M-100 and mBART.")
    ] = None,
    target_language: Annotated[
        str | None, typer.Option(help="To write in, for NLLB, M2M-100, mBART and Marian.")
    ] = None,
    timeout: Timeout = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Text in, text out: T5, BART, Marian, NLLB and their kin, Llama and Qwen2. The exit code is
    1 if any failed.

    \b
    antiphon generate "translate English to German: Good morning." -m google/flan-t5-base
    antiphon generate -m facebook/nllb-200-distilled-600M --target-language fra_Latn < FILE
    antiphon generate "in words: 407" --server http://text.example.com:8000
    """
    target.check(model, engine)
    params = SamplingParams.of(sampling)
    preflight.check_timeout(timeout)
    languages = {"source_language": source_language, "target_language": target_language}
    options = {name: code for name, code in languages.items() if code is not None}
    with logs_on_stderr(quiet):
        if target.server is None:
            assert model is not None  # or `ServerFlags.check` had refused it
            logger.info("reading the configuration of %s", model)
            config = preflight.check_text_settings(model, engine, params, options)
        texts = prompts or _lines_of_standard_input()
        if not texts:
            logger.info("nothing to do: standard input holds no prompts")
            return
        if target.server is not None:
            wanted = {**sampling, **options, "timeout": timeout}
            with client_of(target, model) as client, Console(quiet, len(texts), "prompt") as shown:
                failed = _show_all(shown, texts, completions(client, texts, wanted), as_json)
        else:
            assert model is not None
            preflight.check_generation(config, params, options)
            failed = _run(model, engine, texts, params, as_json, quiet, timeout=timeout, **options)
    if failed:
        raise typer.Exit(FAILED)


def _lines_of_standard_input() -> list[str]:
    if isinstance(sys.stdin, io.TextIOWrapper):
        # A byte that is not UTF-8 then fails its own line, as a prompt that is no text.
        sys.stdin.reconfigure(errors="surrogateescape")
    lines = [line.rstrip("\r\n") for line in sys.stdin]
    return [line.removeprefix("\ufeff") for line in lines[:1]] + lines[1:]  # a byte order mark


def _run(
    model: str,
    engine: dict[str, Any],
    texts: list[str],
    params: SamplingParams,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> bool:
    """Generates here. True if any prompt failed."""
    from antiphon.engine.sync_engine import Engine
    from antiphon.runtime.garbage import frozen_heap

    with (
        engine_errors(),
        Engine(model, **engine) as running,
        frozen_heap(),
        Console(quiet, len(texts), "prompt") as console,
    ):
        results = running.generate_as_completed(texts, params, **options)
        return _show_all(console, texts, results, as_json)


def _show_all(
    console: Console, texts: list[str], results: Iterable[tuple[int, Any]], as_json: bool
) -> bool:
    """Shows results, which come in any order, in that of the prompts. True if any prompt failed."""
    failed, shown = False, 0
    waiting: dict[int, Any] = {}  # results whose predecessors are missing
    for index, result in results:
        waiting[index] = result
        while shown in waiting:
            failed |= _show(console, texts[shown], waiting.pop(shown), as_json)
            shown += 1
        console.advance()
    return failed


def _show(console: Console, text: str, result: Any, as_json: bool) -> bool:
    """Prints an engine's `RequestOutput`, or what a server made of a prompt. True if this prompt
    failed."""
    error = result if isinstance(result, AntiphonError) else result.error
    if error is not None:
        console.error(f"{text[:40]!r}: {error}")
        return True
    if as_json:
        outputs = [asdict(output) for output in result.outputs]
        console.result(json.dumps({"prompt": text, "outputs": outputs}, ensure_ascii=False))
    else:
        for output in result.outputs:
            console.result(output.text)
    return False
