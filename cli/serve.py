"""`antiphon serve`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from antiphon.cli import interrupt, preflight
from antiphon.cli.arguments import Quiet
from antiphon.cli.exit_codes import engine_errors
from antiphon.cli.flags import ENGINE, DataclassFlags, with_flags
from antiphon.config.logs import logs_to
from antiphon.serve.settings import Limits

CLOSING_SECONDS = 10.0  # for engines and Ray Serve to close, after open requests have ended


@dataclass(frozen=True)
class ServerFlags:
    """None stands for the configuration file's value, or the default."""

    host: Annotated[str | None, typer.Option(help="Address to listen on. [127.0.0.1]")] = None
    port: Annotated[int | None, typer.Option(help="0 takes a free one. [8000]")] = None
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY", help="Clients must send it; may be repeated. Also ANTIPHON_API_KEY."
        ),
    ] = None
    api_key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="API keys, one a line.")
    ] = None
    insecure: Annotated[
        bool | None,
        typer.Option("--insecure", help="Without a key on an address that others reach."),
    ] = None
    replicas: Annotated[
        int | None, typer.Option(help="HTTP frontends over the same workers. [1]")
    ] = None
    otlp_traces_endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="OpenTelemetry collector: traces go there.")
    ] = None
    log_format: Annotated[str | None, typer.Option(help="text or json. [text]")] = None
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="These options, and models, in YAML.")
    ] = None


def _limit(name: str, meaning: str) -> Any:
    return typer.Option(help=f"{meaning} [{getattr(Limits(), name):g}]")


@dataclass(frozen=True)
class LimitFlags:
    """Fields of `serve.settings.Limits`."""

    upload_mib: Annotated[float | None, _limit("upload_mib", "Largest request.")] = None
    audio_seconds: Annotated[float | None, _limit("audio_seconds", "Longest recording.")] = None
    prompts: Annotated[int | None, _limit("prompts", "Most prompts of a request.")] = None
    open_requests: Annotated[
        int | None, _limit("open_requests", "At work or waiting in a frontend; more get 429.")
    ] = None
    request_seconds: Annotated[
        float | None, _limit("request_seconds", "Deadline of a request.")
    ] = None
    idle_seconds: Annotated[
        float | None, _limit("idle_seconds", "Without a byte from or to a client.")
    ] = None
    drain_seconds: Annotated[
        float | None, _limit("drain_seconds", "For open requests when the server stops.")
    ] = None


Models = Annotated[
    list[str] | None,
    typer.Argument(metavar="MODELS", help="Hub ids or folders. NAME=MODEL: clients call it NAME."),
]
SERVER = DataclassFlags("server", ServerFlags)
LIMITS = DataclassFlags("limits", LimitFlags)


@with_flags(SERVER, LIMITS, ENGINE)
def serve(
    server: ServerFlags,
    limits: LimitFlags,
    engine: dict[str, Any],
    models: Models = None,
    quiet: Quiet = False,
) -> None:
    """Serve models over HTTP with OpenAI's API. SIGTERM and Ctrl-C let open requests end.

    \b
    antiphon serve openai/whisper-small
    antiphon serve asr=openai/whisper-large-v3 nllb=facebook/nllb-200-distilled-600M --port 9000
    antiphon serve examples/t5_numbers/model --no-ray
    """
    from antiphon.serve.command import run
    from antiphon.serve.logs import handler_of

    plan = _plan(server, limits, engine, models or [])
    for model in plan.models.values():
        preflight.check_options(model, plan.engine)
    interrupt.advise(None, plan.settings.limits.drain_seconds + CLOSING_SECONDS)
    with logs_to(handler_of(sys.stderr, plan.settings.log_format), quiet), engine_errors():
        run(plan)


def _plan(
    server: ServerFlags, limits: LimitFlags, engine: dict[str, Any], models: list[str]
) -> Any:
    """Flags, then the configuration file, then defaults. Raises ConfigurationError."""
    from antiphon.serve.config_file import plan_of, read_config

    file = {} if server.config is None else read_config(server.config)
    chosen = {
        **file,
        **_set(server),
        "limits": {**file.get("limits", {}), **_set(limits)},
        "engine": {**file.get("engine", {}), **engine},
        "models": models or file.get("models") or [],
    }
    if "api_key" in chosen:
        chosen["api_keys"] = [*chosen.pop("api_key"), *file.get("api_keys", ())]
    return plan_of(chosen)


def _set(flags: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(flags).items() if value is not None}
