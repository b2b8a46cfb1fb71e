"""Arguments that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Option("--model", "-m", metavar="MODEL", help="Hub id or checkpoint folder."),
]
ModelOrServers = Annotated[
    str | None,
    typer.Option("--model", "-m", metavar="MODEL", help="Hub id or checkpoint folder."),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="On standard error only warnings and errors."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object per line.")]
Timeout = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", help="Give up on an input after so long.", min=0.0),
]
Output = Annotated[
    Path | None, typer.Option("--output", metavar="FILE", help="Write the results here (JSON).")
]
