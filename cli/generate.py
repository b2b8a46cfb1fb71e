"""`antiphon generate`."""

import io
import json
import logging
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from antiphon.cli import preflight
from antiphon.cli.arguments import Json, Model, Quiet, Timeout
from antiphon.cli.console import Console, logs_on_stderr
from antiphon.cli.exit_codes import FAILED, engine_errors
from antiphon.cli.flags import ENGINE, SAMPLING, with_flags
from antiphon.config.sampling import SamplingParams

if TYPE_CHECKING:
    from antiphon.engine.outputs import RequestOutput

logger = logging.getLogger(__name__)


@with_flags(ENGINE, SAMPLING)
def generate(
    model: Model,
    engine: dict[str, Any],
    sampling: dict[str, Any],
    prompts: Annotated[
        list[str] | None,
        typer.Argument(metavar="PROMPTS", help="Texts; standard input, one a line, when left out."),
    ] = None,
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
    """
    params = SamplingParams.of(sampling)
    preflight.check_timeout(timeout)
    languages = {"source_language": source_language, "target_language": target_language}
    options = {name: code for name, code in languages.items() if code is not None}
    with logs_on_stderr(quiet):
        logger.info("reading the configuration of %s", model)
        config = preflight.check_text_settings(model, engine, params, options)
        texts = prompts or _lines_of_standard_input()
        if not texts:
            logger.info("nothing to do: standard input holds no prompts")
            return
        preflight.check_generation(config, params, options)
        failed = _run(model, engine, texts, params, as_json, quiet, timeout=timeout, **options)
    if failed:
        raise typer.Exit(FAILED)


def _lines_of_standard_input() -> list[str]:
    if isinstance(sys.stdin, io.TextIOWrapper):
        # A byte that is not UTF-8 then fails its own line, as a prompt that is no text.
        sys.stdin.reconfigure(errors="surrogateescape")
    return [line.rstrip("\r\n") for line in sys.stdin]


def _run(
    model: str,
    engine: dict[str, Any],
    texts: list[str],
    params: SamplingParams,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> bool:
    """Shows the results in the order of the prompts. True if any prompt failed."""
    from antiphon.engine.sync_engine import Engine
    from antiphon.runtime.garbage import frozen_heap

    failed = False
    waiting: dict[int, RequestOutput] = {}  # results whose predecessors are missing
    shown = 0
    with (
        engine_errors(),
        Engine(model, **engine) as running,
        frozen_heap(),
        Console(quiet, len(texts), "prompt") as console,
    ):
        for index, result in running.generate_as_completed(texts, params, **options):
            waiting[index] = result
            while shown in waiting:
                failed |= _show(console, texts[shown], waiting.pop(shown), as_json)
                shown += 1
            console.advance()
    return failed


def _show(console: Console, text: str, result: "RequestOutput", as_json: bool) -> bool:
    """Prints one result. True if this prompt failed."""
    if result.error is not None:
        console.error(f"{text[:40]!r}: {result.error}")
        return True
    if as_json:
        outputs = [asdict(output) for output in result.outputs]
        console.result(json.dumps({"prompt": text, "outputs": outputs}, ensure_ascii=False))
    else:
        for output in result.outputs:
            console.result(output.text)
    return False
