"""How commands list their flags and what they say about unknown ones."""

from difflib import get_close_matches
from typing import Any

from typer.core import TyperCommand

from antiphon.cli.flags import ENGINE, SAMPLING
from antiphon.config import foreign_options, foreign_sampling

# Flags of other tools, beside the options of other engines in `config/foreign_options.py`.
OTHER_FLAGS = {
    "beam_size": "it belongs to the commands that generate; over HTTP each request has its own",
    "batch_size": "everything is batched together; see --max-num-seqs",
    "chunk_length": "it is called --chunk-seconds here",
    "compute_type": "give --dtype or --quantization",
    "cpu_threads": "it is called -o num_threads here",
    "diarize": "speakers are not told apart yet",
    "language": "it belongs to `antiphon transcribe`; `antiphon generate` has --target-language",
    "no_timestamps": "it belongs to `antiphon transcribe`",
    "num_beams": "it is called --beam-size in commands that search with beams",
    "print_progress": "it is shown by itself; --quiet turns it off",
    "resume": "a batch goes on by itself where it stopped: give the same --output",
    "seed": "it belongs to the commands that generate; over HTTP each request has its own",
    "task": "it belongs to `antiphon transcribe`",
    "vad": "it is called --vad-filter here",
    "without_timestamps": "it is called --no-timestamps here",
}


class PanelledCommand(TyperCommand):
    """Lists flags under the headings of their groups, with words (N, TEXT) for their types."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                heading = "Arguments" if parameter.param_type_name == "argument" else "Options"
                panel = getattr(parameter, "rich_help_panel", None) or heading
                panels.setdefault(panel, []).append((_in_words(record[0]), record[1]))
        for panel, records in panels.items():
            with formatter.section(panel):
                formatter.write_dl(records)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, self._in_own_form(args))
        except (
            Exception
        ) as error:  # click's NoSuchOption, of the copy of click that typer has inside
            option = getattr(error, "option_name", None)
            if type(error).__name__ != "NoSuchOption" or option is None:
                raise
            ctx.fail(_unknown_flag(option, ctx))
            raise AssertionError("unreachable") from error

    def _in_own_form(self, args: list[str]) -> list[str]:
        """Arguments as openai/whisper's command takes them, in this one's form: `--verbose False`
        is `--no-verbose`, and `-o DIR`, which is no NAME=VALUE, is `--output-dir DIR`."""
        switches = {
            name: parameter
            for parameter in self.params
            if getattr(parameter, "is_flag", False)
            for name in parameter.opts
        }
        has_folder = any("--output-dir" in parameter.opts for parameter in self.params)
        own: list[str] = []
        for word in args:
            name = own[-1].replace("_", "-") if own else ""
            if name in switches and word in ("True", "False"):
                off = switches[name].secondary_opts[:1]
                own[-1:] = off if word == "False" else [name]
                continue
            if name == "-o" and has_folder and "=" not in word and word != "help":
                own[-1] = "--output-dir"
            own.append(word)
        return own

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [
            piece.strip("{}").replace("}...", "...") for piece in super().collect_usage_pieces(ctx)
        ]


def _unknown_flag(option: str, ctx: Any) -> str:
    """What another tool's flag is called here, else the nearest flag if one is near: click's own
    suggestions are often unrelated."""
    name = option.lstrip("-").replace("-", "_")
    table = foreign_options.NOT_HONORED.get(name) or foreign_sampling.NOT_HONORED.get(name)
    reason = OTHER_FLAGS.get(name) or (table and table[1])
    if reason:
        return f"No option {option}: {reason}."
    flags = [
        flag
        for parameter in ctx.command.params
        for flag in (*parameter.opts, *parameter.secondary_opts)
    ]
    for group, where in ((SAMPLING, "generate"), (ENGINE, "start an engine")):
        if name in group.types and group.pairs[0] in flags:  # what one word can't say is no flag
            return f"No option {option}: give {group.pairs[1]} {name}=..., a list as JSON."
        if name in group.types:
            return f"No option {option}: it belongs to the commands that {where}."
    near = get_close_matches(option, flags, n=1, cutoff=0.75)
    hint = f"Did you mean {near[0]}?" if near else f"`{ctx.command_path} --help` lists them."
    return f"No such option: {option}. {hint}"


def _in_words(signature: str) -> str:
    """`--seed N` for typer's `--seed <int>`; drops the type of an argument."""
    words = {"<int>": "N", "<float>": "NUMBER", "<str>": "TEXT", " <list[str]>": ""}
    for kind, word in words.items():
        signature = signature.replace(kind, word)
    return signature
