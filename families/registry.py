"""The families that this folder holds: every file of it that defines `FAMILY`."""

import pkgutil
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from types import MappingProxyType

import antiphon.families
from antiphon.families.family import Family


@cache
def families() -> Mapping[str, Family]:
    """Families by architecture, as config.json names it ('BartForConditionalGeneration')."""
    by_architecture: dict[str, Family] = {}
    for file in pkgutil.iter_modules(antiphon.families.__path__):
        family = vars(import_module(f"antiphon.families.{file.name}")).get("FAMILY")
        if isinstance(family, Family):
            by_architecture.update(dict.fromkeys(family.architectures, family))
    return MappingProxyType(by_architecture)
