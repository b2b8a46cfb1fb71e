"""The one table of engine options, made from the fields of frozen dataclasses."""

from dataclasses import dataclass, field, fields
from typing import Any, get_type_hints


def option(default: Any, meaning: str, *, prefixed: bool = False, least: int = 1) -> Any:
    """A field of an options class. `meaning`: what `--help` and the docs say.
    `prefixed`: users type the section's name in front (`encoder_replicas` for
    `config.encoder.replicas`). `least`: the smallest whole number that it takes."""
    metadata = {"meaning": meaning, "prefixed": prefixed, "least": least}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Option:
    """One option: the name that users type, and the configuration's field it sets."""

    name: str
    section: str
    field: str
    annotation: Any
    default: Any
    meaning: str
    least: int  # of a whole number


def sections(config: type) -> dict[str, Any]:
    """The options class of each section of a configuration class."""
    return {part.name: part.default_factory for part in fields(config)}


def table(config: type) -> dict[str, Option]:
    """All options of a configuration class, by the name that users type."""
    options = []
    for section, options_class in sections(config).items():
        annotations = get_type_hints(options_class)
        for entry in fields(options_class):
            prefix = f"{section}_" if entry.metadata["prefixed"] else ""
            options.append(
                Option(
                    name=prefix + entry.name,
                    section=section,
                    field=entry.name,
                    annotation=annotations[entry.name],
                    default=entry.default,
                    meaning=entry.metadata["meaning"],
                    least=entry.metadata["least"],
                )
            )
    return {row.name: row for row in options}
