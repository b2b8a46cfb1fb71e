"""The scheduler runs without torch and Ray."""

import subprocess
import sys

from paths import ROOT

PROGRAM = """
import importlib.util, sys, types
sys.modules["torch"] = sys.modules["ray"] = None  # an import of either fails
root = types.ModuleType("antiphon")
root.__path__ = [sys.argv[1]]
sys.modules["antiphon"] = root
import antiphon.scheduler.scheduler, antiphon.scheduler.router
import antiphon.kv.pages, antiphon.config.options
"""


def test_importing_the_scheduler_needs_neither_torch_nor_ray() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM, str(ROOT)], check=True)
