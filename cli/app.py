"""All commands. Errors are one line and a hint, never a traceback.

Nothing here imports torch, Ray, transformers or numpy: commands import what they use when they run.
"""

import io
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from antiphon import __version__
from antiphon.benchmarks.commands import app as bench
from antiphon.cli.batch import batch
from antiphon.cli.command import PanelledCommand
from antiphon.cli.exit_codes import FAILED, exit_code
from antiphon.cli.generate import generate
from antiphon.cli.info import info
from antiphon.cli.quantize import quantize
from antiphon.cli.recordings import SUFFIXES
from antiphon.cli.serve import serve
from antiphon.cli.transcribe import transcribe
from antiphon.config.errors import AntiphonError

MISTAKEN = {
    "translate": "`antiphon transcribe --task translate` writes English, "
    "`antiphon generate --target-language` translates text",
    "help": "`antiphon --help`",
    "version": "`antiphon --version`",
}


class Commands(TyperGroup):
    """Suggests a command for a word that is none."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        word = args[0]
        if self.get_command(ctx, word) is None:
            if word in MISTAKEN:
                ctx.fail(f"No command '{word}': {MISTAKEN[word]}.")
            if Path(word).exists() or Path(word).suffix.lower() in SUFFIXES:
                ctx.fail(
                    f"No command '{word}'. Did you mean: antiphon transcribe {word} --model MODEL?"
                )
        return super().resolve_command(ctx, args)


def _dashes(name: str) -> str:
    """`--output_dir` is `--output-dir`, as openai/whisper spells it."""
    return name.replace("_", "-")


app = typer.Typer(
    name="antiphon",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its boxes cut the names of flags on a terminal of 80 columns
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": _dashes,
    },
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"antiphon {__version__}")
        raise typer.Exit


@app.callback()
def _antiphon(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Serve encoder/decoder models (Whisper, T5, BART, Marian, NLLB) on Ray."""


app.command(cls=PanelledCommand)(transcribe)
app.command(cls=PanelledCommand)(generate)
app.command(cls=PanelledCommand)(batch)
app.command(cls=PanelledCommand)(serve)
app.command(cls=PanelledCommand)(quantize)
app.command(cls=PanelledCommand)(info)
app.add_typer(bench, name="bench")


def run() -> None:
    """Ends with one of the codes of `exit_codes`."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # file names need not be valid Unicode
    try:
        app(prog_name="antiphon")
    except AntiphonError as error:
        print(f"antiphon: {error}", file=sys.stderr)
        sys.exit(exit_code(error))
    except BrokenPipeError:  # the reader of standard output (`| head`) has ended
        _discard_output()
        sys.exit(FAILED)
    except OSError as error:  # a full disk under standard output
        _discard_output()
        print(f"antiphon: cannot go on: {error.strerror or error}", file=sys.stderr)
        sys.exit(FAILED)


def _discard_output() -> None:
    """Redirects standard output, so that flushing it at exit is no error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
