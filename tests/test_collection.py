"""That the tests can be collected, and the GPU tests run, where not everything is installed."""

import ast
from pathlib import Path

import pytest
from service_tests import cannot_be_imported

TESTS = sorted(Path(__file__).parent.rglob("*.py"))
MISSING_ON_SOME_GPU_MACHINES = {
    "av",
    "flash_attn",
    "flash_attn_interface",
    "fa3_fwd_interface",
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


def test_tests_of_the_service_are_left_out_where_it_cannot_be_imported() -> None:
    left_out = {path.stem for path in TESTS if cannot_be_imported(path, ["openai"])}
    assert {"test_realtime", "test_serve_text", "test_metrics", "http_server"} <= left_out
    assert not left_out & {"test_parity", "test_attention", "conftest", "test_engine"}
    assert not any(cannot_be_imported(path, []) for path in TESTS)
