"""Flags that many commands share, made from the tables of engine options and sampling parameters.

`@with_flags(ENGINE)` above a command replaces its parameter `engine` by one flag per option and
`-o NAME=VALUE`, and passes typed values as one dictionary. Rare flags are in `-o help` alone.
"""

import functools
import inspect
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, fields, replace
from shutil import get_terminal_size
from types import NoneType
from typing import Annotated, Any, Literal, Protocol, Union, get_args, get_origin, get_type_hints

import typer

from antiphon.cli.pairs import parse_pairs
from antiphon.cli.sampling_meanings import SAMPLING_MEANINGS
from antiphon.config import foreign_options
from antiphon.config.errors import ConfigurationError
from antiphon.config.options import OPTIONS
from antiphon.config.sampling import SamplingParams

SCALARS = (bool, int, float, str)


class Flags(Protocol):
    """Flags that replace one parameter of a command."""

    @property
    def parameter(self) -> str: ...

    def parameters(self) -> list[inspect.Parameter]:
        """One for each flag, for the signature that typer reads."""

    def collect(self, arguments: dict[str, Any]) -> Any:
        """Removes the values of these flags from a command's arguments, and returns them as one."""


@dataclass(frozen=True)
class DataclassFlags:
    """The fields of a dataclass, annotated for typer, as flags. The command gets an instance."""

    parameter: str
    fields_of: type

    def parameters(self) -> list[inspect.Parameter]:
        annotations = get_type_hints(self.fields_of, include_extras=True)
        return [
            _keyword(entry.name, annotations[entry.name], entry.default)
            for entry in fields(self.fields_of)
        ]

    def collect(self, arguments: dict[str, Any]) -> Any:
        values = {entry.name: arguments.pop(entry.name) for entry in fields(self.fields_of)}
        return self.fields_of(**values)


@dataclass(frozen=True)
class FlagGroup:
    """A table of options as flags. The command gets a dictionary of the values that were typed."""

    parameter: str
    panel: str  # heading in --help
    pairs: tuple[str, str]  # the flag for NAME=VALUE
    types: Mapping[str, Any]
    defaults: Mapping[str, Any]
    meanings: Mapping[str, str]
    listed: tuple[str, ...]  # in --help, in this order
    aliases: Mapping[str, tuple[str, ...]]

    @property
    def _pairs_parameter(self) -> str:
        return f"{self.parameter}_pairs"

    def parameters(self) -> list[inspect.Parameter]:
        """As `Flags.parameters`. The default None stands for "not typed"."""
        scalars = {name: kind for name in self.types if (kind := _scalar(self.types[name]))}
        order = [*self.listed, *(name for name in scalars if name not in self.listed)]
        flags = [self._flag(name, scalars[name]) for name in order if name in scalars]
        pairs = Annotated[
            list[str] | None,
            typer.Option(
                *self.pairs,
                metavar="NAME=VALUE",
                help=f"Any of them by name, may be repeated; `{self.pairs[1]} help` lists all.",
                rich_help_panel=self.panel,
                callback=self._help,
                is_eager=True,
            ),
        ]
        return [*flags, _keyword(self._pairs_parameter, pairs)]

    def _flag(self, name: str, kind: Any) -> inspect.Parameter:
        dashed = name.replace("_", "-")
        spelling = f"--{dashed}/--no-{dashed}" if kind is bool else f"--{dashed}"
        default = self.defaults[name]
        option = typer.Option(
            spelling,
            *self.aliases.get(name, ()),
            help=_sentence(self.meanings.get(name, ""), default),
            show_default=False,  # typer would put it in brackets of its own
            rich_help_panel=self.panel,
            hidden=name not in self.listed,
            metavar=_metavar(kind),
            callback=_one_of(name, get_args(kind)) if get_origin(kind) is Literal else None,
            autocompletion=_completion(get_args(kind)) if get_origin(kind) is Literal else None,
        )
        return _keyword(
            name, Annotated[(str if get_origin(kind) is Literal else kind) | None, option]
        )

    def collect(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """As `Flags.collect`. Raises ConfigurationError for an option that was typed twice."""
        pairs = parse_pairs(arguments.pop(self._pairs_parameter) or [], self.pairs[0])
        for name in [name for name in arguments if name in self.types]:
            value = arguments.pop(name)
            if value is None:
                continue
            if name in pairs:
                raise ConfigurationError(
                    f"{name} is given twice: as a flag and by {self.pairs[1]} {name}=..."
                )
            pairs[name] = value
        return pairs

    def _help(self, pairs: list[str] | None) -> list[str] | None:
        if pairs and "help" in pairs:
            typer.echo(self.table())
            raise typer.Exit
        return pairs

    def table(self) -> str:
        """Every option with its default, its values and its meaning."""
        width = max(len(name) for name in self.types)
        lines = []
        for name, kind in self.types.items():
            default = self.defaults[name]
            choices = get_args(_scalar(kind)) if get_origin(_scalar(kind)) is Literal else ()
            notes = [
                *([f"default {_shown(default)}"] if default not in (None, (), {}) else []),
                *([f"one of {', '.join(choices)}"] if choices else []),
            ]
            meaning = self.meanings.get(name, "")
            text = f"{meaning} ({'; '.join(notes)})" if notes else meaning
            columns = max(40, get_terminal_size().columns) - width - 2
            first, *others = textwrap.wrap(text, columns) or [""]
            lines.append(f"{name:{width}}  {first}")
            lines += [" " * (width + 2) + line for line in others]
        return "\n".join(lines)


def without(group: FlagGroup, name: str) -> FlagGroup:
    """The group less one option."""
    types = {own: kind for own, kind in group.types.items() if own != name}
    return replace(group, types=types, listed=tuple(own for own in group.listed if own != name))


def with_flags(*groups: Flags) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator of commands that have one parameter for each group."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True)

        @functools.wraps(command)
        def collecting(**arguments: Any) -> None:
            collected = {group.parameter: group.collect(arguments) for group in groups}
            command(**arguments, **collected)

        replaced = {group.parameter for group in groups}
        kept = [parameter for name, parameter in own.parameters.items() if name not in replaced]
        added = [parameter for group in groups for parameter in group.parameters()]
        signature = own.replace(parameters=[*kept, *added])
        collecting.__signature__ = signature  # type: ignore[attr-defined]
        return collecting

    return decorate


def _keyword(name: str, annotation: Any, default: Any = None) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def _scalar(annotation: Any) -> Any:
    """`int` for `int | None`; the Literal for a Literal; None for what one word cannot say."""
    members = get_args(annotation) if _is_union(annotation) else (annotation,)
    members = tuple(member for member in members if member is not NoneType)
    if len(members) != 1:
        return None
    return members[0] if members[0] in SCALARS or get_origin(members[0]) is Literal else None


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) is Union or type(annotation).__name__ == "UnionType"


def _metavar(kind: Any) -> str | None:
    if get_origin(kind) is Literal:
        return f"[{'|'.join(get_args(kind))}]"
    return {int: "N", float: "NUMBER", str: "TEXT"}.get(kind)


def _one_of(name: str, choices: tuple[str, ...]) -> Callable[[str | None], str | None]:
    """Takes other engines' spellings too (`--dtype half`), as the engine itself does."""

    def check(value: str | None) -> str | None:
        own = foreign_options.option_value(name, value)
        if own is not None and own not in choices:
            remedy = foreign_options.remedy(name, own)
            raise typer.BadParameter(f"{value!r} is not one of {', '.join(choices)}{remedy}.")
        return own if own is None else str(own)

    return check


def _completion(choices: tuple[str, ...]) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        return [choice for choice in choices if choice.startswith(incomplete)]

    return complete


def _sentence(meaning: str, default: Any) -> str:
    """A capital letter and a full stop; a value or code that comes first stays as it is."""
    code_first = meaning.startswith("`") or meaning.split(" ")[0].endswith(":")
    sentence = meaning if code_first else meaning[:1].upper() + meaning[1:]
    suffix = "" if default is None else f"  [default: {_shown(default)}]"
    return f"{sentence}.{suffix}"


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _default(option: "Field[Any]") -> Any:
    return option.default_factory() if option.default_factory is not MISSING else option.default


_ENGINE_OPTIONS = {name: option for name, option in OPTIONS.items() if name != "model"}
_BOTH_HALVES = foreign_options.FOR_BOTH_HALVES
_SAMPLING_TYPES = get_type_hints(SamplingParams)
_SAMPLING_FIELDS = [option for option in fields(SamplingParams) if option.repr]  # public ones

ENGINE = FlagGroup(
    parameter="engine",
    panel="Engine",
    pairs=("--option", "-o"),
    types={
        **{name: option.annotation for name, option in _ENGINE_OPTIONS.items()},
        **dict.fromkeys(_BOTH_HALVES, int),
        "speculative_config": str | None,
    },
    defaults={
        **{name: option.default for name, option in _ENGINE_OPTIONS.items()},
        **dict.fromkeys(_BOTH_HALVES, 1),
        "speculative_config": None,
    },
    meanings={
        **{name: option.meaning for name, option in _ENGINE_OPTIONS.items()},
        **_BOTH_HALVES,
        "speculative_config": "the speculative options as JSON",
    },
    listed=(
        "device",
        "dtype",
        "quantization",
        "kv_cache_dtype",
        "encoder_attention_backend",
        "decoder_attention_backend",
        "encoder_window",
        "max_num_seqs",
        "max_model_len",
        "encoder_replicas",
        "decoder_replicas",
        "tensor_parallel_size",
        "pipeline_parallel_size",
        "placement",
        "address",
        "ray",
        "revision",
        "enforce_eager",
    ),
    aliases={
        "encoder_attention_backend": ("--mm-encoder-attn-backend",),
        "encoder_tp_mode": ("--mm-encoder-tp-mode",),
    },
)
SAMPLING = FlagGroup(
    parameter="sampling",
    panel="Sampling",
    pairs=("--sampling", "-s"),
    types={option.name: _SAMPLING_TYPES[option.name] for option in _SAMPLING_FIELDS},
    defaults={option.name: _default(option) for option in _SAMPLING_FIELDS},
    meanings=SAMPLING_MEANINGS,
    listed=("max_tokens", "temperature", "top_p", "seed"),
    aliases={},
)
