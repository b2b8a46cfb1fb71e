"""Results as a table, as JSON and as a plot."""

import json
from dataclasses import asdict, is_dataclass
from datetime import date
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def table(rows: list[Row]) -> str:
    """Columns in the order of the first row that has them."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names, *([_cell(row.get(name)) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def write_json(path: Path, title: str, machine: Any, options: dict[str, Any], rows: list[Row]) -> None:
    content = {
        "bench": title,
        "date": date.today().isoformat(),
        "machine": asdict(machine) if is_dataclass(machine) and not isinstance(machine, type) else machine,
        "options": options,
        "rows": rows,
    }
    path.write_text(json.dumps(content, indent=1))


def plot(path: Path, title: str, rows: list[Row], label: str, value: str, limit: float | None = None) -> None:
    """Bars of `value`, one for each row, named by `label`; a line at `limit`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [row for row in rows if row.get(value) is not None]
    figure, axes = pyplot.subplots(figsize=(8, 0.6 + 0.32 * len(shown)))
    axes.barh([str(row[label]) for row in shown], [row[value] for row in shown], color="#4477aa")
    if limit is not None:
        axes.axvline(limit, color="#cc3311", linestyle="--")
        axes.annotate("measured limit", (limit, -0.6), color="#cc3311", ha="right", fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(value)
    axes.set_title(title)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
