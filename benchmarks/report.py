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
    content = {
        "bench": title,
        "date": date.today().isoformat(),
        "machine": asdict(machine)
        if is_dataclass(machine) and not isinstance(machine, type)
        else machine,
        "options": options,
        "rows": rows,
    }
    path.write_text(json.dumps(content, indent=1))


COLOURS = (
    "#4477aa",
    "#ee6677",
    "#228833",
    "#ccbb44",
    "#66ccee",
    "#aa3377",
    "#bbbbbb",
)  # Tol's bright scheme: also told apart by the colour-blind


def plot_attention(path: Path, machine: str, rows: list[Row]) -> None:
    """The attention bench as panels: a row for encoder and decoder kernels each, a column for each head size; in a panel backends
    side by side, by sequences and tokens, as a share of the measured limit."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    kinds = [
        (
            "encoder, % of the matmul rate",
            "of_matmul_%",
            [row for row in rows if row["kind"] == "full"],
        ),
        *(
            (
                f"decode, {kv}, % of the copy rate",
                "of_copy_%",
                [row for row in rows if row.get("kv") == kv],
            )
            for kv in dict.fromkeys(row["kv"] for row in rows if "kv" in row)
        ),
    ]
    sizes = sorted({row["head_size"] for row in rows})
    names = list(dict.fromkeys(row["backend"] for row in rows))
    figure, panels = pyplot.subplots(
        len(kinds),
        len(sizes),
        figsize=(4.2 * len(sizes), 2.9 * len(kinds)),
        sharey=True,
        squeeze=False,
    )
    for line, (label, value, of_kind) in zip(panels, kinds, strict=True):
        for axes, size in zip(line, sizes, strict=True):
            shown = [row for row in of_kind if row["head_size"] == size]
            cases = list(dict.fromkeys((row["batch"], row["tokens"]) for row in shown))
            width = 0.8 / len(names)
            for i, name in enumerate(names):
                found = [
                    (cases.index((row["batch"], row["tokens"])), row[value])
                    for row in shown
                    if row["backend"] == name
                ]
                places = [case + (i - (len(names) - 1) / 2) * width for case, _ in found]
                axes.bar(
                    places,
                    [share for _, share in found],
                    width,
                    color=COLOURS[i % len(COLOURS)],
                    label=name,
                )
            axes.set_xticks(
                range(len(cases)),
                [f"{batch}×{tokens}" for batch, tokens in cases],
                rotation=45,
                fontsize=7,
            )
            axes.set_title(f"head size {size}", fontsize=9)
            axes.grid(axis="y", alpha=0.3)
            axes.set_axisbelow(True)
        line[0].set_ylabel(label, fontsize=8)
    figure.suptitle(f"Attention kernels on {machine}, by sequences × tokens", fontsize=11)
    figure.legend(
        *panels[0][0].get_legend_handles_labels(), loc="lower center", ncols=len(names), fontsize=8
    )
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def plot(path: Path, title: str, rows: list[Row], label: str, value: str) -> None:
    """Bars of `value`, one for each row, named by `label`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [row for row in rows if row.get(value) is not None]
    figure, axes = pyplot.subplots(figsize=(8, 0.6 + 0.32 * len(shown)))
    axes.barh([str(row[label]) for row in shown], [row[value] for row in shown], color=COLOURS[0])
    axes.invert_yaxis()
    axes.set_xlabel(value)
    axes.set_title(title)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
