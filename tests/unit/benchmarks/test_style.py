"""The script that measures how the code reads, on a file whose figures are counted by hand."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from paths import ROOT

SAMPLE = '''"""A module."""


class Thing:
    """Two lines
    of docstring."""

    def act(self, first, second, third, fourth, fifth, sixth, seventh):
        # why
        for x in first:
            if x:
                while x:
                    with second:
                        y = x
            elif second:
                pass
        return y  # a comment
'''


@pytest.fixture(scope="module")
def style() -> ModuleType:
    spec = importlib.util.spec_from_file_location("style", ROOT / "benchmarks/scripts/style.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_file_is_measured(style: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "thing.py"
    path.write_text(SAMPLE)
    cells = dict(zip(style.COLUMNS, style.row("sample", [style.Source(path)]), strict=True))
    assert cells["lines (code)"] == "17 (10)"
    assert cells["function lines p50 / p90"] == "10 / 10"
    assert cells["longest function"] == "10 `act`"
    assert cells["comments per 100 lines"] == "11.8"  # 2 of 17
    assert cells["docstring lines"] == "17.6 %"  # 3 of 17
    assert cells["nesting (functions ≥ 4)"] == "4 (1)"
    assert cells["functions > 6 parameters"] == "1"
    assert cells["names < 3 letters"] == "22 %"  # x and y of nine names
    assert cells["columns p50 / p90 / max (> 100)"].endswith("/ 71 (0 %)")


def test_rows_have_names(style: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "thing.py").write_text(SAMPLE)
    assert style.rows_of(f"a name={tmp_path}") == {"a name": [tmp_path / "thing.py"]}
    assert "scheduler" in style.rows_of("own")


def test_a_folder_without_python_is_said(style: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no Python file"):
        style.rows_of(str(tmp_path))
