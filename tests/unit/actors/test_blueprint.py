"""What it takes to start a replica of several ranks."""

from types import SimpleNamespace
from typing import Any

import pytest

from antiphon.actors import blueprint as blueprints
from antiphon.actors.blueprint import Blueprint
from antiphon.actors.placement import Placement
from antiphon.config.options import EngineConfig
from antiphon.config.parallel import Parallel
from antiphon.scheduler.request import Incarnation

PARALLEL = Parallel(tensor=2, pipeline=2)


class Cluster:
    """Stands for Ray: what was made in it and is there still. `fails_at`: how many things it makes
    before it fails."""

    def __init__(self, fails_at: int) -> None:
        self.fails_at, self.made = fails_at, 0
        self.left: list[Any] = []

    def make(self, thing: Any) -> Any:
        if self.made == self.fails_at:
            raise ConnectionError("the cluster is gone")
        self.made += 1
        self.left.append(thing)
        return thing

    def reserve(self, bundles: list[Any], strategy: str) -> str:
        return str(self.make(f"group {self.made}"))

    def remote(self, **options: Any) -> Any:
        return lambda actor: SimpleNamespace(remote=lambda: self.make(Rank(self)))

    def kill(self, handle: Any, no_restart: bool) -> None:
        self.left.remove(handle)


class Rank:
    """The handle of a rank's process."""

    def __init__(self, cluster: Cluster) -> None:
        self.open_store = self.spot = SimpleNamespace(remote=lambda: None)
        self.load = SimpleNamespace(remote=lambda *arguments: self._load(cluster))

    def _load(self, cluster: Cluster) -> None:
        cluster.left.remove(cluster.make("load"))  # a call, which stays nowhere


def blueprint(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Blueprint:
    monkeypatch.setattr(blueprints, "ray", cluster)
    monkeypatch.setattr(blueprints, "placement_group", cluster.reserve)
    monkeypatch.setattr(blueprints, "remove_placement_group", cluster.left.remove)
    monkeypatch.setattr(
        blueprints, "PlacementGroupSchedulingStrategy", lambda group, bundle: (group, bundle)
    )
    monkeypatch.setattr(Blueprint, "parallel", lambda self, role: PARALLEL)
    placement = Placement(colocated=False, processes=4, gpu_share=0.0, cpus=1.0)
    return Blueprint(None, EngineConfig(), None, placement)  # type: ignore[arg-type]


def test_a_start_that_fails_halfway_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for fails_at in range(10):  # two groups, four processes, four that load
        cluster = Cluster(fails_at)
        with pytest.raises(ConnectionError):
            blueprint(cluster, monkeypatch).start(Incarnation("decoder-0", 0), "decoder")
        assert not cluster.left, (fails_at, cluster.left)


def test_what_was_started_is_killed_with_its_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(10)
    started = blueprint(cluster, monkeypatch).start(Incarnation("decoder-0", 0), "decoder")
    assert len(cluster.left) == 6
    assert len(started.ranks) == 4
    started.kill()
    assert not cluster.left
