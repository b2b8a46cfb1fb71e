"""`antiphon quantize`."""

from pathlib import Path
from typing import Annotated

import typer

from antiphon.cli.arguments import Quiet
from antiphon.cli.console import logs_on_stderr


def quantize(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Hub id, size or checkpoint folder.")
    ],
    scheme: Annotated[str, typer.Option(metavar="[fp8|w8a8|w4a16]", help="What is stored.")],
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the new checkpoint.")],
    calibration: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Inputs such as the model will see: JSON lines as `antiphon batch` reads them, or "
            "a folder of recordings or pictures. Without it weights are rounded as they are.",
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option(metavar="N", min=1, help="Of DATA, the first so many are used.")
    ] = 256,
    quiet: Quiet = False,
) -> None:
    """Write a quantised checkpoint, by llm-compressor, that Antiphon, transformers and vLLM read.

    \b
    antiphon quantize openai/whisper-small --scheme w8a8 --output whisper-small-w8a8
    antiphon quantize google/flan-t5-xl --scheme w4a16 --calibration texts.jsonl --output t5-w4a16
    """
    from antiphon.config.options import ModelOptions
    from antiphon.families.checkpoint import ModelConfig
    from antiphon.jobs.quantizing import Quantization
    from antiphon.jobs.quantizing import quantize as write

    wanted = Quantization(scheme, calibration, samples)
    with logs_on_stderr(quiet):
        write(ModelConfig.load(ModelOptions(model=model)), wanted, output)
    print(f"{output}: {scheme}; antiphon info --model {output} says what is in it")
