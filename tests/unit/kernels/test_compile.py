"""Compiling kernels together: what it relies on in Triton, and what happens without that."""

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("triton")

from triton.runtime.jit import JITFunction

from antiphon.kernels import compile as compilation
from antiphon.kernels.compile import compiling_together


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each launch through Triton: whether it was a compilation only."""
    seen: list[bool] = []

    def run(kernel: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        seen.append(warmup)

    monkeypatch.setattr(JITFunction, "run", run)
    return seen


def launch() -> None:
    JITFunction.run(None, grid=(1,), warmup=False)


def in_another_thread(function: Callable[[], None]) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def test_launches_of_this_thread_compile_and_those_of_others_run(launches: list[bool]) -> None:
    with compiling_together():
        launch()
        in_another_thread(launch)
    launch()
    assert launches == [True, False, False]


def test_an_error_inside_restores_launches(launches: list[bool]) -> None:
    with pytest.raises(ZeroDivisionError), compiling_together():
        1 / 0  # noqa: B018
    launch()
    assert launches == [False]


def test_this_triton_is_known() -> None:
    """Fails with a Triton that changed inside: starts would be slower by some 20 seconds."""
    assert compilation._asynchronous_compilation() is not None


def test_a_run_with_other_parameters_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(kernel: Any, grid: Any, arguments: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(JITFunction, "run", run)
    assert compilation._asynchronous_compilation() is None


def test_a_module_without_its_names_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("triton.runtime._async_compile", SimpleNamespace(active_mode=None))
    assert compilation._asynchronous_compilation() is None


def test_with_an_unknown_triton_launches_run(
    launches: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilation, "_asynchronous_compilation", lambda: None)
    with compiling_together():
        launch()
    assert launches == [False]
