"""Triton's compiler takes our kernels for a Hopper GPU, with every type that they are given."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from paths import FAKES

pytest.importorskip("triton")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kernels_compile_for_hopper(tmp_path: Path) -> None:
    environment = {
        **{name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"},
        "TRITON_CACHE_DIR": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, FAKES / "compile_for_hopper.py"],
        capture_output=True, text=True, check=False, timeout=1800, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 90
