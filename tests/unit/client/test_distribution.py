"""The client as a distribution of its own, in an environment that has nothing else."""

import json
import shutil
import subprocess
import tomllib
import venv
from pathlib import Path

import pytest
from paths import ROOT

import antiphon

ASK = """
import importlib.metadata, json, sys, time
began = time.process_time()
from antiphon.client import AsyncClient, Client, ConnectionFailed
from antiphon.client.policy import Policy
seconds = time.process_time() - began
with Client("http://127.0.0.1:9", policy=Policy(retries=0)) as client:
    try:
        client.generate("in words: 7")
    except ConnectionFailed as error:
        installed = sorted(d.metadata["Name"].lower() for d in importlib.metadata.distributions())
        print(json.dumps({"installed": installed, "error": str(error), "seconds": seconds}))
"""
OF_HTTPX = {"anyio", "certifi", "h11", "httpcore", "httpx", "idna", "sniffio", "typing_extensions"}


def test_it_has_the_version_of_the_whole() -> None:
    project = tomllib.loads((ROOT / "client" / "pyproject.toml").read_text())["project"]
    assert project["version"] == antiphon.__version__


@pytest.mark.slow
def test_it_installs_and_works_alone(tmp_path: Path) -> None:
    source = shutil.copytree(ROOT / "client", tmp_path / "client")  # a build leaves files behind
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    constraints = str(ROOT / "constraints.txt")
    subprocess.run([*pip, "--constraint", constraints, str(source)], check=True)
    done = subprocess.run([python, "-I", "-c", ASK], capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    assert "no answer" in answer["error"]
    assert answer["seconds"] < 0.3  # of the processor's time; httpx comes with the first client
    installed = set(answer["installed"]) - {"pip", "setuptools"}
    assert installed <= OF_HTTPX | {"antiphon-client"}
    assert "antiphon-client" in installed
