"""The shape of the repository: packaging, direction of imports, the names that the README gives."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from paths import ROOT

LEVELS = [
    {"cli", "benchmarks"},
    {"engine"},
    {"actors"},
    {"scheduler", "encoder", "decoder"},
    {"attention", "kv", "inputs"},
    {"layers"},
    {"families", "runtime"},
    {"config", "kernels"},
]
LEVEL_OF = {name: level for level, names in enumerate(LEVELS) for name in names}
SCRIPTS = ROOT / "benchmarks" / "scripts"  # run by hand; not part of the package
CODE = sorted(
    path for name in LEVEL_OF for path in (ROOT / name).rglob("*.py") if SCRIPTS not in path.parents
)


def imports(path: Path) -> list[tuple[str, bool]]:
    """(module, only for type checking) of every import in a file."""
    found = []
    tree = ast.parse(path.read_text())
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node in typing_only) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.append((node.module or "", node in typing_only))
    return found


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(path: Path) -> None:
    own = path.relative_to(ROOT).parts[0]
    for module, typing_only in imports(path):
        parts = module.split(".")
        assert parts[0] not in LEVEL_OF, f"bare import of {module}"
        if parts[0] == "antiphon" and len(parts) > 1 and not typing_only:
            assert LEVEL_OF[parts[1]] >= LEVEL_OF[own], (
                f"{own} imports {module}, which lies above it"
            )
            assert own != "kernels" or parts[1] in ("kernels", "config"), (
                "kernels take plain tensors"
            )
        if parts[0] == "ray":
            assert own == "actors", "Ray lives in actors alone"
        if parts[0] == "torch":
            assert own not in ("scheduler", "config", "families"), f"{own} knows no torch"


def test_every_folder_of_code_is_packaged() -> None:
    listed = set(
        tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    )
    folders = {".".join(("antiphon", *path.parent.relative_to(ROOT).parts)) for path in CODE}
    assert listed == folders | {"antiphon"}
    for folder in {path.parent for path in CODE}:
        assert (folder / "__init__.py").exists()


def test_only_two_modules_lie_in_the_root() -> None:
    assert {path.name for path in ROOT.glob("*.py")} == {"__init__.py", "__main__.py"}


def test_no_package_hides_a_standard_module() -> None:
    assert not set(LEVEL_OF) & set(sys.stdlib_module_names)


def test_the_wheel_holds_the_package_and_nothing_else(tmp_path: Path) -> None:
    source = (
        tmp_path / "source"
    )  # a copy: setuptools would put what an earlier build left behind into the wheel
    for path in [
        *CODE,
        *ROOT.glob("*.py"),
        ROOT / "pyproject.toml",
        ROOT / "README.md",
        ROOT / "py.typed",
    ]:
        copy = source / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(tmp_path),
        str(source),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    modules = {name for name in names if name.endswith(".py")}
    expected = {
        f"antiphon/{path.relative_to(ROOT)}"
        for path in [*CODE, ROOT / "__init__.py", ROOT / "__main__.py"]
    }
    assert modules == expected
    assert "antiphon/py.typed" in names


def test_the_installed_package_is_this_one() -> None:
    import antiphon

    assert Path(antiphon.__file__).resolve().parent == ROOT


def test_the_life_of_a_request_names_what_exists() -> None:
    """Every `file : function` in the README's table is there; a dotted name is a method."""
    section = (ROOT / "README.md").read_text().split("## Life of a request")[1].split("\n## ")[0]
    named = re.findall(r"`([\w/]+\.py) : ([\w.]+)`", section)
    assert len(named) >= 10
    for file, name in named:
        tree: ast.AST = ast.parse((ROOT / file).read_text())
        for part in name.split("."):
            body = getattr(tree, "body", [])
            found = [node for node in body if getattr(node, "name", None) == part]
            assert found, f"{file} has no {name}"
            tree = found[0]


def test_options_in_the_readme_exist() -> None:
    from antiphon.config.options import OWNER

    table = (ROOT / "README.md").read_text().split("## Options")[1].split("\n## ")[0]
    named = set(re.findall(r"^\| `(\w+)`", table, re.M))
    assert named == set(OWNER) - {"model"}
