"""Results as a table, as JSON and as a plot."""

import json
from dataclasses import asdict, dataclass, is_dataclass
from datetime import date
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def table(rows: list[Row]) -> str:
    """Rows as aligned text; columns in the order in which rows first have them."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names, *([_cell(row.get(name)) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def write_json(
    path: Path, title: str, machine: Any, options: dict[str, Any], rows: list[Row]
) -> None:
    """`machine`: a dataclass or a name."""
    if is_dataclass(machine) and not isinstance(machine, type):
        machine = asdict(machine)
    content = {
        "bench": title,
        "date": date.today().isoformat(),
        "machine": machine,
        "options": options,
        "rows": rows,
    }
    path.write_text(json.dumps(content, indent=1))


class Report:
    """Rows of a benchmark; the file `output`, if there is one, has all that there are so far."""

    def __init__(self, title: str, machine: Any, output: Path | None) -> None:
        """`machine`: as `write_json` takes it."""
        self.rows: list[Row] = []
        self._title, self._machine, self._output = title, machine, output

    def add(self, rows: list[Row]) -> None:
        self.rows += rows
        print(rows, flush=True)
        if self._output is not None:
            write_json(self._output, self._title, self._machine, {}, self.rows)


# Tol's bright scheme, which color-blind readers can tell apart too.
COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")


@dataclass(frozen=True)
class _Kind:
    """Rows of the attention bench that belong into one row of panels."""

    label: str
    value: str  # the column that is drawn
    rows: list[Row]


def plot_attention(path: Path, machine: str, rows: list[Row]) -> None:
    """Panels of the attention bench: a row for each kind of kernel, a column for each head size.

    In a panel, backends stand side by side, by sequences and tokens, as a share of the limit.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    kinds = _kinds(rows)
    sizes = sorted({row["head_size"] for row in rows})
    backends = list(dict.fromkeys(row["backend"] for row in rows))
    figure, panels = pyplot.subplots(
        len(kinds),
        len(sizes),
        figsize=(4.2 * len(sizes), 2.9 * len(kinds)),
        sharey=True,
        squeeze=False,
    )
    for line, kind in zip(panels, kinds, strict=True):
        for axes, size in zip(line, sizes, strict=True):
            _draw_panel(axes, kind, size, backends)
        line[0].set_ylabel(kind.label, fontsize=8)
    figure.suptitle(f"Attention kernels on {machine}, by sequences × tokens", fontsize=11)
    handles = panels[0][0].get_legend_handles_labels()
    figure.legend(*handles, loc="lower center", ncols=len(backends), fontsize=8)
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _kinds(rows: list[Row]) -> list[_Kind]:
    full = [row for row in rows if row["kind"] == "full"]
    kinds = [_Kind("encoder, % of the matmul rate", "of_matmul_%", full)]
    for kv in dict.fromkeys(row["kv"] for row in rows if "kv" in row):
        decodes = [row for row in rows if row.get("kv") == kv]
        kinds.append(_Kind(f"decode, {kv}, % of the copy rate", "of_copy_%", decodes))
    return kinds


def _draw_panel(axes: Any, kind: _Kind, size: int, backends: list[str]) -> None:
    """Bars of one kind and head size, grouped by (sequences, tokens)."""
    rows = [row for row in kind.rows if row["head_size"] == size]
    cases = list(dict.fromkeys((row["batch"], row["tokens"]) for row in rows))
    width = 0.8 / len(backends)
    for index, backend in enumerate(backends):
        own = [row for row in rows if row["backend"] == backend]
        offset = (index - (len(backends) - 1) / 2) * width
        centers = [cases.index((row["batch"], row["tokens"])) + offset for row in own]
        shares = [row[kind.value] for row in own]
        axes.bar(centers, shares, width, color=COLORS[index % len(COLORS)], label=backend)
    labels = [f"{batch}×{tokens}" for batch, tokens in cases]
    axes.set_xticks(range(len(cases)), labels, rotation=45, fontsize=7)
    axes.set_title(f"head size {size}", fontsize=9)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def plot(path: Path, title: str, rows: list[Row], label: str, value: str) -> None:
    """Horizontal bars: the column `value` of each row, named by its column `label`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [row for row in rows if row.get(value) is not None]
    figure, axes = pyplot.subplots(figsize=(8, 0.6 + 0.32 * len(shown)))
    axes.barh([str(row[label]) for row in shown], [row[value] for row in shown], color=COLORS[0])
    axes.invert_yaxis()
    axes.set_xlabel(value)
    axes.set_title(title)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
