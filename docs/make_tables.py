"""Write the tables of docs/ (options, attention, jobs, metrics) from the code that they describe.

    python docs/make_tables.py

A table stands between `<!-- NAME: made by docs/make_tables.py -->` and `<!-- end of NAME -->`;
everything else in those pages is written by hand. `tests/test_docs.py` holds that the pages are as
this script makes them, defaults included.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from antiphon.attention.registry import BACKENDS
from antiphon.attention.selection import ORDER
from antiphon.attention.support import Row, Support
from antiphon.cli.sampling_meanings import SAMPLING_MEANINGS
from antiphon.config.options import OPTIONS
from antiphon.config.sampling import SamplingParams
from antiphon.jobs.entries import KEYS
from antiphon.serve.metric_names import METRICS

DOCS = Path(__file__).parent
TYPE_WORDS = {bool: "true or false", int: "whole number", float: "number", str: "text"}
HEADINGS = {
    "model": "Model and weights",
    "encoder": "Encoder",
    "decoder": "Decoder and KV cache",
    "scheduler": "Scheduler",
    "speculation": "Speculative decoding",
    "workers": "Placement and processes",
}


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def engine_options() -> str:
    parts = []
    for section, heading in HEADINGS.items():
        rows = [
            [f"`{option.name}`", _values(option.annotation), _words(option.default), option.meaning]
            for option in OPTIONS.values()
            if option.section == section and option.name != "model"
        ]
        parts.append(f"### {heading}\n\n{_described(rows)}")
    return "\n\n".join(parts)


def sampling_parameters() -> str:
    hints = get_type_hints(SamplingParams)
    rows = [
        [f"`{parameter.name}`", _values(hints[parameter.name]), _default(parameter), meaning]
        for parameter in fields(SamplingParams)
        if parameter.repr  # the others are not for callers
        for meaning in [SAMPLING_MEANINGS[parameter.name]]
    ]
    return _described(rows)


def _described(rows: list[list[str]]) -> str:
    return table(("option", "values", "default", "meaning"), rows)


def _values(annotation: Any) -> str:
    """A type in words: `none`, `fp8`; whole number; list of text."""
    if get_origin(annotation) in (Union, UnionType):
        members = [member for member in get_args(annotation) if member is not type(None)]
        return " or ".join(_values(member) for member in members)
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(annotation))
    if (origin := get_origin(annotation)) is not None:
        return "mapping" if issubclass(origin, Mapping) else "list"
    return TYPE_WORDS[annotation]


def _default(option: "Field[Any]") -> str:
    factory = option.default_factory
    return _words(factory() if factory is not MISSING else option.default)


def _words(default: Any) -> str:
    if default in (None, (), {}, "") and not isinstance(default, bool):
        return ""
    words = str(default).lower() if isinstance(default, bool) else str(default)
    return f"`{words.removesuffix('.0')}`"


def manifest_keys() -> str:
    rows = [
        [
            f"`{name}`",
            ", ".join(f"`{other}`" for other in key.others),
            key.models,
            key.meaning,
        ]
        for name, key in KEYS.items()
    ]
    return table(("key", "also", "models", "meaning"), rows)


def attention(kind: str) -> str:
    """One row for each backend that has this kind of attention, "full" or "cross" (paged)."""
    paged = kind != "full"
    head = ["backend", "devices", "dtypes", "relative bias", "grouped heads", "head sizes"]
    head += ["page size", "float8 KV", "hidden states"] if paged else ["float8"]
    rows = []
    for name, row in BACKENDS.items():
        support = row.support(kind)
        if support is None:
            continue
        cells = [
            f"`{name}`",
            _devices(support),
            _dtypes(support),
            _yes(support.bias),
            _yes(support.grouped_heads),
            _heads(support),
        ]
        if paged:
            cells += [_pages(support), _float8(support), _yes(row.latent is not None)]
        else:
            cells.append(_float8(support))
        rows.append([*cells, _graphs(support), _install(row)])
    return table([*head, "CUDA graphs", "comes with"], rows)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _devices(support: Support) -> str:
    names = {"cpu": "CPU", "cuda": "CUDA"}
    devices = " and ".join(names[device] for device in sorted(support.devices))
    low, high = support.min_capability, support.max_capability
    if low is None:
        return devices
    least = ".".join(map(str, low))
    return f"{devices} {least}" if low == high else f"{devices}, {least} or newer"


def _dtypes(support: Support) -> str:
    return ", ".join(sorted(support.dtypes))


def _heads(support: Support) -> str:
    if support.head_dims is not None:
        return ", ".join(map(str, sorted(support.head_dims)))
    multiple = support.head_dim_multiple
    words = f"multiples of {multiple}" if multiple > 1 else "any"
    return words if support.max_head_dim is None else f"{words} up to {support.max_head_dim}"


def _pages(support: Support) -> str:
    multiple = support.page_size_multiple
    return f"multiples of {multiple}" if multiple > 1 else "any"


def _float8(support: Support) -> str:
    multiple = support.float8_head_dim_multiple
    return "head sizes in multiples of " + str(multiple) if multiple > 1 else _yes(support.float8)


def _graphs(support: Support) -> str:
    if "cuda" not in support.devices:
        return ""
    return {"any": "yes", "same": "of equal lengths", "none": "no"}[support.graphs]


def _install(row: Row) -> str:
    if row.extra is not None:
        return f"`pip install 'antiphon[{row.extra}]'`"
    return row.install or "Antiphon"


def attention_order() -> str:
    """What `auto` tries, for each device and kind of work."""
    work = {"full": "audio encoder", "ragged": "text encoder", "paged": "decoder"}
    rows = [
        [device.upper(), work[group], ", ".join(f"`{name}`" for name in names)]
        for (device, group), names in ORDER.items()
    ]
    return table(("device", "half", "in this order"), rows)


def metrics() -> str:
    rows = [
        [f"`{metric.name}`", metric.kind, ", ".join(metric.labels), metric.meaning]
        for metric in METRICS
    ]
    return table(("name", "kind", "labels", "meaning"), rows)


BLOCKS = {
    ("jobs.md", "manifest keys"): manifest_keys,
    ("options.md", "engine options"): engine_options,
    ("options.md", "sampling parameters"): sampling_parameters,
    ("metrics.md", "metrics"): metrics,
    ("attention.md", "order"): attention_order,
    ("attention.md", "encoder backends"): lambda: attention("full"),
    ("attention.md", "decoder backends"): lambda: attention("cross"),
}


def made(page: str) -> str:
    """The text of a page with new tables. Raises ValueError if the page has no place for one."""
    text = (DOCS / page).read_text()
    for (file, name), make in BLOCKS.items():
        if file == page:
            begin, end = f"<!-- {name}: made by docs/make_tables.py -->", f"<!-- end of {name} -->"
            pattern = re.compile(f"(?<={re.escape(begin)}\n).*?(?={re.escape(end)})", re.S)
            block = f"\n{make()}\n\n"
            text, count = pattern.subn(lambda _, block=block: block, text)
            if count != 1:
                raise ValueError(f"{page} has no place for {name}: {begin} ... {end}")
    return text


if __name__ == "__main__":
    for page in sorted({page for page, _ in BLOCKS}):
        (DOCS / page).write_text(made(page))
        print(f"wrote {DOCS / page}")
