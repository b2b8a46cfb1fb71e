"""That the tests can be collected, and the GPU tests run, where not everything is installed."""

import ast
from pathlib import Path

import torch
from plain_engine import pages_of
from precision import full_precision
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


def test_modules_of_tests_import_nothing_that_a_gpu_machine_may_lack() -> None:
    """`pytest -m gpu` imports every module before it deselects tests."""
    lacking = {
        path.name: imported_at_the_top(path) & MISSING_ON_SOME_GPU_MACHINES for path in TESTS
    }
    assert {file: names for file, names in lacking.items() if names} == {}


def imported_at_the_top(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return names


def test_tests_of_the_service_are_left_out_where_it_cannot_be_imported() -> None:
    left_out = {path.stem for path in TESTS if cannot_be_imported(path, ["openai"])}
    assert {"test_realtime", "test_serve_text", "test_metrics", "http_server"} <= left_out
    assert not left_out & {"test_parity", "test_attention", "conftest", "test_engine"}
    assert not any(cannot_be_imported(path, []) for path in TESTS)


def test_full_precision_ends_behind_a_test() -> None:
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    with full_precision():
        assert [backend.allow_tf32 for backend in backends] == [False, False]
    assert [backend.allow_tf32 for backend in backends] == before


def test_what_torch_computes_is_not_monkeypatched() -> None:
    """It has no place that pytest could put back: a test for a GPU would fail behind its end."""
    patched = [path.name for path in TESTS if "setattr(" + "torch.backends" in path.read_text()]
    assert not patched


def test_engines_of_tests_share_a_gpu() -> None:
    assert pages_of({"device": "cuda", "dtype": "float32"}) == {"kv_cache_memory_gib": 1}
    for options in ({}, {"device": "cuda", "num_kv_pages": 9}, {"kv_cache_memory_gib": 2}):
        assert pages_of(options) == {}
