"""Shared fixtures. One Ray for the whole run: starting it takes seconds."""

import gc
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from paths import EXAMPLES

os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # see `antiphon.runtime.openmp`; before torch is loaded

import torch

if not torch.cuda.is_available():
    os.environ.setdefault(
        "TRITON_INTERPRET", "1"
    )  # our kernels then run on the CPU, in Triton's interpreter
    if find_spec("triton") is not None:
        from quick_interpreter import quicken

        quicken()

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(
        1
    )  # workers whose threads all wait for the same cores take minutes for what one does in seconds

# Outside the tests with Ray, a call that needs a cluster fails instead of starting one. Children
# keep what users have.
os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
import ray

del os.environ["RAY_ENABLE_AUTO_CONNECT"]
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")  # as an engine does that starts it

import pytest
import tiny_models
from made_once import made_once
from service_tests import cannot_be_imported, missing
from tiny_decoders import DECODERS, make_decoder
from transformers import PreTrainedModel
from transformers.utils import logging

from antiphon.actors.ray_processes import RayProcesses

logging.disable_progress_bar()
logging.set_verbosity_error()

LACKING = missing()
Checkpoints = Callable[[str], tuple[Path, PreTrainedModel]]
BEGAN = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--within", type=float, metavar="SECONDS", help="tests that would begin later are skipped"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    limit = item.config.getoption("--within")
    if limit is not None and time.monotonic() - BEGAN > limit:
        pytest.skip(f"the {limit:g} s of --within are over: `make test-slow` runs this, too")


@pytest.hookimpl
def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Machines for GPU tests may lack what the service needs; `make test` installs it. Where only
    tests with Ray are asked for, files that have none are not imported."""
    if collection_path.suffix != ".py":
        return None
    without = config.option.markexpr.endswith(" and ray") and not names_ray(collection_path)
    return without or cannot_be_imported(collection_path, LACKING) or None


@cache
def names_ray(path: Path) -> bool:
    return re.search(r"ray_cluster|_over_ray|mark\.ray", path.read_text()) is not None


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with Ray get the mark `ray`."""
    for item in items:
        if "ray_cluster" in getattr(item, "fixturenames", ()):
            item.add_marker("ray")
        if item.get_closest_marker("ray") is not None:
            assert names_ray(item.path), f"{item.path}: its fixture with Ray is called *_over_ray"


@pytest.fixture(autouse=True)
def kept_settings_of_ray() -> Iterator[None]:
    """No test leaves Ray set otherwise for the tests behind it."""

    def settings() -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if name.startswith("RAY_")}

    before = settings()
    yield
    assert settings() == before


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    """name of `tiny_models.FAMILIES` -> (folder, transformers model)"""
    return made_once(tiny_models.make, tmp_path_factory)


@pytest.fixture(scope="session")
def folder_of(
    checkpoints: Checkpoints, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The tiny checkpoint of a family."""
    decoders: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in DECODERS:
            folder: Path = checkpoints(family)[0]
            return folder
        if family not in decoders:
            decoders[family] = tmp_path_factory.mktemp(family)
            make_decoder(family, decoders[family])
        return decoders[family]

    return get


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Two of its CPUs are for an engine that lives as long as the run: `numbers_over_ray`."""
    processes = RayProcesses()
    for attempts_left in (1, 0):
        try:
            ray.init(
                num_cpus=6, include_dashboard=False, logging_level="WARNING", log_to_driver=False
            )
            break
        except Exception:  # on a busy machine a process of Ray's may come too late for it
            processes.clear()
            if not attempts_left:
                raise
        with warnings.catch_warnings():  # of Ray's handles of the processes that were ended
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def whisper_folder() -> Path:
    return EXAMPLES / "whisper_commands" / "model"


@pytest.fixture(scope="session")
def t5_folder() -> Path:
    return EXAMPLES / "t5_numbers" / "model"
