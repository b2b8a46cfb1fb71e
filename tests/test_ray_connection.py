"""Engines of one process share its connection to Ray."""

import pytest
import ray

from antiphon.actors import cluster


@pytest.mark.parametrize("connected_before", [False, True])
def test_the_first_engine_connects_and_the_last_leaves_unless_the_program_had_connected(
    connected_before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected = [connected_before]
    monkeypatch.setattr(ray, "is_initialized", lambda: connected[0])
    monkeypatch.setattr(ray, "init", lambda **_: connected.__setitem__(0, True))
    monkeypatch.setattr(ray, "shutdown", lambda: connected.__setitem__(0, False))
    connection = cluster.RayConnection()
    for _ in range(2):  # the connection serves again after it was left
        connection.join(None)
        connection.join(None)
        assert connected == [True]
        connection.leave()
        assert connected == [True]
        connection.leave()
        assert connected == [connected_before]


def test_an_engine_that_could_not_connect_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    left = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: left.append(True))

    def refuse(**_: object) -> None:
        raise ConnectionError("nobody there")

    connection = cluster.RayConnection()
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(cluster.ConfigurationError, match="nobody there"):
        connection.join(None)
    monkeypatch.setattr(ray, "init", lambda **_: None)
    connection.join(None)
    connection.leave()
    assert left == [True]
