"""`antiphon info`."""

from typing import Annotated, Any

import typer

from antiphon.cli.exit_codes import WRONG_USAGE
from antiphon.cli.flags import ENGINE, with_flags


@with_flags(ENGINE)
def info(
    engine: dict[str, Any],
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="MODEL", help="Also describe this checkpoint."),
    ] = None,
    everything: Annotated[
        bool,
        typer.Option("--all", help="Every attention backend, and why it is or isn't usable here."),
    ] = False,
) -> None:
    """This machine, and what a model needs of it.

    \b
    antiphon info
    antiphon info -m openai/whisper-small --kv-cache-dtype fp8
    antiphon info -m openai/whisper-large-v3 --decoder-tensor-parallel-size 2
    """
    from antiphon.cli.describe import describe_machine, facts_of_model, in_lines, summary

    print(summary())
    refusals: list[str] = []
    if model is not None:
        facts, refusals = facts_of_model(model, engine)
        print("\n" + in_lines(facts, refusals))
    if everything:
        print("\n" + describe_machine())
    elif model is None:
        print("(--all: attention backends and architectures; --model: what one model needs)")
    if refusals:
        raise typer.Exit(WRONG_USAGE)
