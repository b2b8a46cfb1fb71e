"""The repository's own Python files as syntax trees: imports, names, and how long things are."""

import ast
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from paths import ROOT


@dataclass(frozen=True)
class Import:
    module: str  # as written: `antiphon.kv.pages`, `torch`
    names: tuple[str, ...] = ()  # of `from module import names`
    typing_only: bool = False  # stands under `if TYPE_CHECKING:`
    late: bool = False  # stands inside a function

    def file(self) -> Path | None:
        """The file of this repository that `module` names, or None."""
        first, *rest = self.module.split(".")
        if first != "antiphon":
            return None
        stem = ROOT.joinpath(*rest)
        module = stem.with_suffix(".py") if rest else ROOT / "__init__.py"
        return module if module.is_file() else stem / "__init__.py"

    def files(self) -> set[Path]:
        """Files that are executed: a name may itself be a module of the package `module`."""
        file = self.file()
        if file is None:
            return set()
        modules = {file.parent / f"{name}.py" for name in self.names}
        submodules = {path for path in modules if path.is_file()}
        return submodules if file.name == "__init__.py" and submodules else {file}


def tracked(pattern: str) -> list[Path]:
    """Files that git tracks or would track, as absolute paths."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", pattern]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return sorted(path for line in listed.splitlines() if (path := ROOT / line).exists())


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imports(path: Path) -> list[Import]:
    """Every import of a file, in order. A relative import is an AssertionError."""
    collector = _Imports(path)
    collector.visit(_tree(path))
    return collector.imports


class _Imports(ast.NodeVisitor):
    def __init__(self, path: Path) -> None:
        self.path = path
        self.imports: list[Import] = []
        self.typing_only = self.late = False

    def visit_Import(self, node: ast.Import) -> None:
        self.imports += [
            Import(alias.name, (), self.typing_only, self.late) for alias in node.names
        ]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert node.level == 0, f"{self.path}:{node.lineno}: relative import"
        assert node.module is not None
        names = tuple(alias.name for alias in node.names)
        self.imports.append(Import(node.module, names, self.typing_only, self.late))

    def visit_If(self, node: ast.If) -> None:
        before = self.typing_only
        self.typing_only |= isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        self.generic_visit(node)
        self.typing_only = before

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        before, self.late = self.late, True
        self.generic_visit(node)
        self.late = before

    visit_AsyncFunctionDef = visit_FunctionDef


@cache
def bound_names(path: Path) -> frozenset[str]:
    """Every variable, attribute and parameter that a file binds; functions and classes apart."""
    names: set[str | None] = set()
    for node in ast.walk(_tree(path)):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                names.add(name)
            case ast.arg(arg=name) | ast.alias(asname=name) | ast.ExceptHandler(name=name):
                names.add(name)
            case ast.MatchAs(name=name) | ast.MatchStar(name=name) | ast.MatchMapping(rest=name):
                names.add(name)
    return frozenset(name for name in names if name is not None)


def circles(arrows: dict[Path, set[Path]]) -> list[list[Path]]:
    """Strongly connected components of more than one file (Tarjan), each sorted."""
    order: dict[Path, int] = {}
    lowest: dict[Path, int] = {}
    stack: list[Path] = []
    components: list[list[Path]] = []

    def visit(file: Path) -> None:
        order[file] = lowest[file] = len(order)
        stack.append(file)
        for target in sorted(arrows.get(file, ())):
            if target not in order:
                visit(target)
                lowest[file] = min(lowest[file], lowest[target])
            elif target in stack:
                lowest[file] = min(lowest[file], order[target])
        if lowest[file] == order[file]:
            component = stack[stack.index(file) :]
            del stack[stack.index(file) :]
            components.append(sorted(component))

    for file in sorted(arrows):
        if file not in order:
            visit(file)
    return [component for component in components if len(component) > 1]


def functions(path: Path) -> list[tuple[str, int]]:
    """(name, lines from `def` to the last line) of every function of a file; methods by class."""
    pairs: list[tuple[str, int]] = []

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            name = prefix
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                name = f"{prefix}{child.name}"
                if not isinstance(child, ast.ClassDef):
                    assert child.end_lineno is not None
                    pairs.append((name, child.end_lineno - child.lineno + 1))
                name += "."
            visit(child, name)

    visit(_tree(path), "")
    return pairs
