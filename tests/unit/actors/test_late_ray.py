"""Ray's own start has limits of its own, which a busy machine exceeds."""

import subprocess
import sys
from typing import Any

import pytest
import ray

from antiphon.actors.session import RaySession
from antiphon.config.errors import ConfigurationError

LATE = "The current node timed out during startup."
LATE_GCS = RuntimeError("Failed to start GCS. " + LATE)
MISMATCH = RuntimeError("Version mismatch: The cluster was started with Ray 2.9")


@pytest.mark.parametrize("failures", [1, 2])
@pytest.mark.parametrize("error", [Exception(LATE), LATE_GCS])
def test_a_ray_that_is_late_to_start_is_started_once_more(
    error: Exception, failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_behind: list[subprocess.Popen[bytes]] = []
    is_clear = [True]

    def start(**_: object) -> None:
        assert is_clear[0], "Maybe you called ray.init twice by accident?"
        is_clear[0] = False
        assert all(map(_has_ended, left_behind))  # killed
        if len(left_behind) < failures:
            program = [sys.executable, "-c", "import time; time.sleep(60)", "/ray/gcs_server"]
            left_behind.append(subprocess.Popen(program))
            raise error

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", start)
    monkeypatch.setattr(ray, "shutdown", lambda: is_clear.__setitem__(0, True))
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


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """At once: a start does not wait for it."""
    return process.poll() is not None and process.returncode < 0


def test_a_join_that_fails_is_not_called_a_start(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def fail(**_: object) -> None:
        calls.append("init")
        raise Exception(LATE)

    def refuse_shutdown() -> None:
        calls.append("shutdown")
        raise OSError("there is nothing to shut down")

    monkeypatch.setattr("antiphon.actors.session.check_reachable", lambda _: None)
    monkeypatch.setattr("antiphon.actors.session.use_saved_token", lambda: None)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fail)
    monkeypatch.setattr(ray, "shutdown", refuse_shutdown)
    with pytest.raises(
        ConfigurationError, match=r"^cannot join the Ray cluster at there:1: "
    ) as it:
        RaySession().join("there:1")
    assert "start" not in str(it.value).replace(LATE, "")
    assert calls == ["init", "shutdown"] * 2


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


@pytest.mark.parametrize("is_found", [False, True])
def test_a_cluster_of_another_version_is_refused_in_words(
    is_found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`is_found`: it runs on this machine, and refuses options of a start first."""
    calls: list[dict[str, Any]] = []

    def refuse(**options: Any) -> None:
        calls.append(options)
        if is_found and "include_dashboard" in options:
            raise ValueError("include_dashboard must not be provided")
        raise MISMATCH

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(ConfigurationError, match="running Ray cluster: Version mismatch"):
        RaySession().join(None)
    assert len(calls) == 1 + is_found
