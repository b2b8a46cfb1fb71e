"""A process that owns a server's engines is killed: what becomes of the application and workers."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
from ray import serve
from serve_command import READY, served

from antiphon import Engine
from antiphon.actors.blueprint import NAMESPACE, supervisor_name
from antiphon.actors.processes import Spot, birth
from antiphon.serve.cluster import application
from antiphon.serve.deployment import APPLICATION

SECONDS = 120.0
NAME = "owned"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(500),
    pytest.mark.usefixtures("ray_cluster"),
]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < end, holds
        time.sleep(0.1)


def supervisors() -> set[str]:
    """Of all engines: one of another test may live beside the server's."""
    actors = ray.util.list_named_actors(all_namespaces=True)
    return {actor["name"] for actor in actors if actor["namespace"] == NAMESPACE}


def workers() -> list[Spot]:
    with Engine.attach(NAME) as engine:
        assert engine.workers is not None
        return list(engine._loop_thread.run(engine.workers.processes()).values())  # type: ignore[attr-defined]


def ended(spots: list[Spot]) -> bool:
    return all(birth(spot.pid) != spot.born for spot in spots)


def asked(port: int) -> httpx.Response:
    body = {"model": "numbers", "prompt": "in words: 42"}
    return httpx.post(f"http://127.0.0.1:{port}/v1/completions", json=body, timeout=SECONDS)


def works(port: int) -> bool:
    reply = asked(port)
    return reply.status_code == 200 and reply.json()["choices"][0]["text"] == "forty two"


@contextmanager
def shut_down() -> Iterator[None]:
    try:
        yield
    finally:
        serve.shutdown()


def pid_of_owner() -> int:
    prefix = f"SERVE_REPLICA::{APPLICATION}#engines#"
    (name,) = (
        actor["name"]
        for actor in ray.util.list_named_actors(all_namespaces=True)
        if actor["name"].startswith(prefix)
    )
    replica: Any = ray.get_actor(name, namespace="serve")
    return int(ray.get(replica.__ray_call__.remote(lambda _: os.getpid())))


def test_an_owner_that_is_killed_is_replaced_with_its_engines(t5_folder: Path) -> None:
    """As `serve deploy` builds them."""
    others = supervisors()
    port = free_port()
    args = {
        "models": {"numbers": str(t5_folder)}, "insecure": True,
        "engine": {"device": "cpu", "num_threads": 1, "name": NAME},
    }  # fmt: skip
    with shut_down():
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(application(args), name=APPLICATION, route_prefix="/")
        assert works(port)
        before = workers()
        os.kill(pid_of_owner(), signal.SIGKILL)
        until(lambda: ended(before))
        until(lambda: works(port))
        after = workers()
        assert not {spot.pid for spot in after} & {spot.pid for spot in before}
        assert supervisors() == others | {supervisor_name(NAME)}
    until(lambda: supervisors() == others)
    until(lambda: ended(after))


def test_a_served_application_ends_with_its_process(t5_folder: Path) -> None:
    """`antiphon serve` in a cluster that outlives it."""
    others = supervisors()
    address = ray.get_runtime_context().gcs_address
    options = ("--port", str(port := free_port()), "--device", "cpu", "--address", address)
    with (
        shut_down(),
        served(f"numbers={t5_folder}", *options, "-o", f"name={NAME}") as (process, lines),
    ):
        assert READY in lines[-1], "".join(lines)
        assert works(port)
        before = workers()
        process.kill()
        process.wait()
        until(lambda: ended(before))
        until(lambda: supervisors() == others)  # nor the signal to stop
        until(lambda: APPLICATION not in serve.status().applications)
        assert asked(port).status_code == 404
