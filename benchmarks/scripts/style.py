"""Measure how Python code reads: sizes, nesting, comments, names and line widths, one row each.

    python benchmarks/scripts/style.py                    # this package, then each of its folders
    python benchmarks/scripts/style.py nano-vllm=../nano-vllm/nanovllm own

Prints a Markdown table. Needs nothing but Python: files are read by `ast` and `tokenize` and are
never imported.
"""

import ast
import io
import statistics
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOT_THE_PACKAGE = ("tests", "examples", "docs", "scripts")
COLUMNS = (
    "code",
    ".py files",
    "lines (code)",
    "largest file",
    "function lines p50 / p90",
    "functions > 60 lines",
    "longest function",
    "comments per 100 lines",
    "docstring lines",
    "nesting (functions ≥ 4)",
    "functions > 6 parameters",
    "names < 3 letters",
    "columns p50 / p90 / max (> 100)",
)
BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.Match)
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
LAYOUT_TOKENS = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Source:
    """One file, measured."""

    def __init__(self, path: Path) -> None:
        text = path.read_text()
        tree = ast.parse(text)
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
        self.path = path
        self.lines = text.splitlines()
        self.docstring_rows = {row for node in ast.walk(tree) for row in docstring_rows(node)}
        self.code_rows = {
            row
            for token in tokens
            if token.type not in LAYOUT_TOKENS
            for row in range(token.start[0], token.end[0] + 1)
        } - self.docstring_rows
        self.comments = sum(token.type == tokenize.COMMENT for token in tokens)
        self.functions = [node for node in ast.walk(tree) if isinstance(node, Function)]
        self.names = list(bound_names(tree))


def docstring_rows(node: ast.AST) -> range:
    """Rows of the docstring of a module, class or function; empty for everything else."""
    if not isinstance(node, DOCUMENTED) or ast.get_docstring(node, clean=False) is None:
        return range(0)
    docstring = node.body[0]
    return range(docstring.lineno, (docstring.end_lineno or docstring.lineno) + 1)


def length(function: Function) -> int:
    """Lines from `def` to the last one, decorators left out."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def parameters(function: Function) -> int:
    """Parameters without `self` and `cls`."""
    arguments = function.args
    listed = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return sum(argument.arg not in ("self", "cls") for argument in listed)


def nesting(node: ast.AST) -> int:
    """Depth of nested blocks. An `elif` counts as its `if`; inner functions count by themselves."""
    deepest = 0
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (*DOCUMENTED, ast.Lambda)):
            continue
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and [child] == node.orelse
        deepest = max(deepest, nesting(child) + (isinstance(child, BLOCKS) and not is_elif))
    return deepest


def bound_names(tree: ast.AST) -> Iterator[str]:
    """Each variable and parameter once in each function that binds it."""
    for scope in ast.walk(tree):
        if isinstance(scope, Function):
            nodes = list(ast.walk(scope))
            names = {node.arg for node in nodes if isinstance(node, ast.arg)}
            names |= {
                node.id
                for node in nodes
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
            }
            yield from names - {"self", "cls", "_"}


def share(part: int, whole: int) -> str:
    return f"{100 * part / max(whole, 1):.0f} %"


def percentile(values: list[int], percent: int) -> int:
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)] if values else 0


def row(name: str, sources: list[Source]) -> list[str]:
    """The cells of one row, in the order of COLUMNS."""
    lines = [line for source in sources for line in source.lines]
    functions = [function for source in sources for function in source.functions]
    bound = [identifier for source in sources for identifier in source.names]
    widths = [len(line) for line in lines if line.strip()]
    lengths = [length(function) for function in functions]
    depths = [nesting(function) for function in functions]
    largest = max(sources, key=lambda source: len(source.lines))
    longest = max(functions, key=length, default=None)
    code_lines = sum(len(source.code_rows) for source in sources)
    comments = sum(source.comments for source in sources)
    docstrings = sum(len(source.docstring_rows) for source in sources)
    wide = sum(width > 100 for width in widths)
    return [
        name,
        str(len(sources)),
        f"{len(lines)} ({code_lines})",
        f"{len(largest.lines)} {largest.path.parent.name}/{largest.path.stem}",
        f"{statistics.median(lengths or [0]):.0f} / {percentile(lengths, 90)}",
        str(sum(size > 60 for size in lengths)),
        f"{length(longest)} `{longest.name}`" if longest else "-",
        f"{100 * comments / max(len(lines), 1):.1f}",
        f"{100 * docstrings / max(len(lines), 1):.1f} %",
        f"{max(depths, default=0)} ({sum(depth >= 4 for depth in depths)})",
        str(sum(parameters(function) > 6 for function in functions)),
        share(sum(len(identifier) < 3 for identifier in bound), len(bound)),
        f"{percentile(widths, 50)} / {percentile(widths, 90)} / {max(widths, default=0)}"
        f" ({share(wide, len(widths))})",
    ]


def table(folders: dict[str, list[Path]]) -> str:
    """Name of a row -> files, as a Markdown table."""
    rows = [row(name, [Source(path) for path in paths]) for name, paths in folders.items()]
    head = [list(COLUMNS), ["---"] * len(COLUMNS)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [*head, *rows])


def own_folders() -> dict[str, list[Path]]:
    """The package as a whole, without its kernels, by folder, and its tests."""
    folders = sorted(path.parent for path in ROOT.glob("*/__init__.py"))
    by_folder = {
        folder.name: sorted(path for path in folder.rglob("*.py") if "scripts" not in path.parts)
        for folder in folders
    }
    package = [*ROOT.glob("*.py"), *(path for paths in by_folder.values() for path in paths)]
    without_kernels = [path for path in package if path.parent.name != "kernels"]
    return {
        "**Antiphon**": package,
        "without kernels/": without_kernels,
        **by_folder,
        "tests": sorted((ROOT / "tests").rglob("*.py")),
    }


def rows_of(argument: str) -> dict[str, list[Path]]:
    """`own`, `FOLDER` or `NAME=FOLDER`: names of rows and their files."""
    if argument == "own":
        return own_folders()
    name, _, path = argument.rpartition("=")
    folder = Path(path)
    paths = sorted(
        path for path in folder.rglob("*.py") if not set(path.parts) & {".venv", "build"}
    )
    if not paths:
        raise SystemExit(f"no Python file in {folder}")
    return {name or folder.resolve().name: paths}


if __name__ == "__main__":
    rows: dict[str, list[Path]] = {}
    for argument in sys.argv[1:] or ["own"]:
        rows |= rows_of(argument)
    print(table(rows))
