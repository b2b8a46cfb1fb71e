"""The shape of the repository: direction of imports, circles, sizes, packaging."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from paths import ROOT
from source_tree import bound_names, circles, functions, imports, tracked

LEVELS = [
    {"cli", "benchmarks"},
    {"compat", "jobs", "serve"},
    {"engine"},
    {"actors"},
    {"scheduler", "encoder", "decoder"},
    {"attention", "kv", "inputs"},
    {"layers"},
    {"families", "runtime"},
    {"config", "kernels", "client"},
]
LEVEL_OF = {name: level for level, names in enumerate(LEVELS) for name in names}
SCRIPTS = ROOT / "benchmarks" / "scripts"  # run by hand; not part of the package
CODE = sorted(
    path for name in LEVEL_OF for path in (ROOT / name).rglob("*.py") if SCRIPTS not in path.parents
)

MAX_FILE_LINES, MAX_FUNCTION_LINES = 300, 60
# They say nothing of what a variable is: a noun does.
NO_NOUNS = {"at", "each", "found", "given", "here", "there"}
# What is still longer. This list only shrinks: a name that is no longer over must go.
LONG_FILES = {
    "tests/integration/test_engine.py",
    "tests/integration/test_local_engine.py",
    "tests/unit/cli/test_output_formats.py",
    "tests/unit/decoder/test_sampling.py",
    "tests/unit/engine/test_transcription.py",
    "tests/unit/scheduler/test_scheduler.py",
    "tests/unit/scheduler/test_withdrawals.py",
}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_imports_point_downwards() -> None:
    for path in CODE:
        check_imports_point_downwards(path)


def check_imports_point_downwards(path: Path) -> None:
    own, file = path.relative_to(ROOT).parts[0], name(path)
    for item in imports(path):
        top, *rest = item.module.split(".")
        assert top not in LEVEL_OF, f"{file}: bare import of {item.module}"
        if top == "antiphon" and rest:
            assert LEVEL_OF[rest[0]] >= LEVEL_OF[own], f"{file}: {item.module} lies above {own}"
            assert own != "kernels" or rest[0] == "kernels", f"{file}: kernels take plain tensors"
            assert own != "client" or rest[0] == "client", f"{file}: a client needs no engine"
        if top == "ray":
            library = file in (
                "jobs/ray_data.py", "serve/cluster.py", "serve/deployment.py",
                "serve/ray_metrics.py",
            )  # fmt: skip
            assert own == "actors" or library, (
                f"{file}: Ray lives in actors; libraries in a file each"
            )
        if top == "torch":
            knows = own not in ("scheduler", "config", "families")
            assert knows, f"{file}: {own} knows no torch"


@pytest.mark.parametrize(
    ("package", "backend", "sampler"),
    [("triton", "triton", "kernel_sampler"), ("numba", "cpu_paged", "cpu_sampler")],
)
def test_compilers_are_imported_where_they_are_used(
    package: str, backend: str, sampler: str
) -> None:
    """Kernels are imported by what runs them: Triton, which a CPU's machine may lack, where CUDA
    is, and Numba, which takes a third of a second, for attention and sampling on a CPU and times of
    words."""
    needed = {path: [item for item in imports(path) if not item.late] for path in CODE}
    users = {path for path, items in needed.items() if any(i.module == package for i in items)}
    assert users
    while (
        more := {
            path
            for path, items in needed.items()
            if any(not item.typing_only and item.files() & users for item in items)
        }
        - users
    ):
        users |= more
    own = {
        ROOT / "attention" / "backends" / f"{backend}.py",
        ROOT / "decoder" / "sampling" / f"{sampler}.py",
    }
    assert {path for path in users if path.parent.name != "kernels"} == own


def test_imports_of_this_repository_lead_to_files() -> None:
    """mypy does not look at scripts, tests and examples."""
    missing = {
        f"{name(path)} imports {item.module}"
        for path in tracked("*.py")
        for item in imports(path)
        if (file := item.file()) is not None and not file.is_file()
    }
    assert missing == set()


def test_files_do_not_import_each_other_in_circles() -> None:
    """Imports inside functions and under TYPE_CHECKING count: a reader follows them too."""
    package = [*CODE, *ROOT.glob("*.py")]
    arrows = {
        path: {file for item in imports(path) for file in item.files()} - {path} for path in package
    }
    assert [[name(path) for path in circle] for circle in circles(arrows)] == []


def test_only_the_listed_files_are_long() -> None:
    long = {
        name(path)
        for path in tracked("*.py")
        if len(path.read_text().splitlines()) > MAX_FILE_LINES
    }
    assert long - LONG_FILES == set(), f"more than {MAX_FILE_LINES} lines: split by subject"
    assert LONG_FILES - long == set(), "no longer over: take the name off the list"


def test_functions_are_long_in_kernels_alone() -> None:
    """There one function is one program of the device."""
    long = {
        f"{name(path)} : {function}"
        for path in tracked("*.py")
        if path.relative_to(ROOT).parts[0] != "kernels"
        for function, lines in functions(path)
        if lines > MAX_FUNCTION_LINES
    }
    assert long == set(), f"more than {MAX_FUNCTION_LINES} lines"


def test_variables_are_named_by_nouns() -> None:
    """In the package, its scripts and its examples."""
    named = {
        f"{name(path)}: {', '.join(sorted(bad))}"
        for path in tracked("*.py")
        if path.relative_to(ROOT).parts[0] not in ("tests", "docs")
        if (bad := bound_names(path) & NO_NOUNS)
    }
    assert named == set(), "name the thing: see docs/glossary.md"


def test_every_folder_of_code_is_packaged_and_checked() -> None:
    """By setuptools, which wants all of them, and by mypy, which wants the outermost."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    listed = set(tools["setuptools"]["packages"])
    folders = {".".join(("antiphon", *path.parent.relative_to(ROOT).parts)) for path in CODE}
    assert listed == folders | {"antiphon"}
    assert set(tools["mypy"]["packages"]) == {f for f in folders if f.count(".") == 1}
    for folder in {path.parent for path in CODE}:
        assert (folder / "__init__.py").exists()


def test_unit_tests_mirror_the_folders() -> None:
    unit = ROOT / "tests" / "unit"
    assert {path.relative_to(unit).parts[0] for path in unit.rglob("test_*.py")} == set(LEVEL_OF)


def test_only_two_modules_lie_in_the_root() -> None:
    assert {path.name for path in ROOT.glob("*.py")} == {"__init__.py", "__main__.py"}


def test_no_package_hides_a_standard_module() -> None:
    assert not set(LEVEL_OF) & set(sys.stdlib_module_names)


def test_the_wheel_holds_the_package_and_nothing_else(tmp_path: Path) -> None:
    # A copy: setuptools would put what an earlier build left behind into the wheel.
    source = tmp_path / "source"
    metadata = [ROOT / "pyproject.toml", ROOT / "README.md", ROOT / "py.typed"]
    page = ROOT / "serve" / "page.html"
    for path in [*CODE, *ROOT.glob("*.py"), page, *metadata]:
        copy = source / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path)]
    command = [sys.executable, "-m", "pip", "wheel", *options, str(source)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    modules = {name for name in names if name.endswith(".py")}
    expected = {
        f"antiphon/{path.relative_to(ROOT)}"
        for path in [*CODE, ROOT / "__init__.py", ROOT / "__main__.py"]
    }
    assert modules == expected
    assert {"antiphon/py.typed", "antiphon/serve/page.html"} <= set(names)


def test_the_installed_package_is_this_one() -> None:
    import antiphon

    assert Path(antiphon.__file__).resolve().parent == ROOT
