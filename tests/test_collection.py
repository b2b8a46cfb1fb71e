"""That the tests can be collected, and the GPU tests run, where not everything is installed."""

import ast
from pathlib import Path

import pytest

TESTS = sorted(Path(__file__).parent.rglob("*.py"))
MISSING_ON_SOME_GPU_MACHINES = {
    "av",
    "flash_attn",
    "flash_attn_interface",
    "flashinfer",
    "xformers",
}


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_modules_of_tests_import_nothing_that_a_gpu_machine_may_lack(path: Path) -> None:
    """`pytest -m gpu` imports every module before it deselects tests."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    assert not names & MISSING_ON_SOME_GPU_MACHINES
