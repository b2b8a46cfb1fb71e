"""Ray's own start has limits of its own, which a busy machine exceeds."""

import subprocess
import sys

import pytest
import ray

from antiphon.actors.session import RaySession
from antiphon.config.errors import ConfigurationError

LATE = "The current node timed out during startup."


@pytest.mark.parametrize("failures", [1, 2])
def test_a_ray_that_is_late_to_start_is_started_once_more(
    failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_behind: list[subprocess.Popen[bytes]] = []

    def start(**_: object) -> None:
        assert all(process.wait(10) < 0 for process in left_behind)  # killed
        if len(left_behind) < failures:
            program = [sys.executable, "-c", "import time; time.sleep(60)", "/ray/gcs_server"]
            left_behind.append(subprocess.Popen(program))
            raise Exception(LATE)

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", start)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    session = RaySession()
    if failures == 1:
        session.join(None)
        session.leave()
    else:
        with pytest.raises(ConfigurationError, match=f"{LATE} Its logs .* --no-ray"):
            session.join(None)
    assert len(left_behind) == failures
    for process in left_behind:
        assert process.wait(10) < 0


def test_a_program_that_ends_starts_ray_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    session, starts = RaySession(), []

    def start(**_: object) -> None:
        starts.append(None)
        session.end()
        raise Exception(LATE)

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", start)
    with pytest.raises(ConfigurationError, match=LATE):
        session.join(None)
    assert len(starts) == 1


def test_a_cluster_of_another_version_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise RuntimeError("Version mismatch: The cluster was started with Ray 2.9")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(ConfigurationError, match="running Ray cluster: Version mismatch"):
        RaySession().join(None)
