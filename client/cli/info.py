"""`antiphon info`."""

from typing import Annotated, Any

import typer

from antiphon.client.cli.flags import ENGINE, takes


@takes(ENGINE)
def info(
    engine: dict[str, Any],
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="MODEL", help="Also describe this checkpoint."),
    ] = None,
) -> None:
    """Devices, attention backends and why each is or isn't usable here, architectures."""
    from antiphon.client.cli.describe import describe_machine, describe_model

    print(describe_machine())
    if model is not None:
        print("\n" + describe_model(model, engine))
