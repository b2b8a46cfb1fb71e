"""`antiphon serve` over Ray: two HTTP replicas over the same workers."""

import json
import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import ray
from paths import RECORDINGS
from ray import serve
from serve_command import READY, served
from websockets.sync.client import connect

from antiphon.serve.cluster import application

SECONDS = 120.0
PATIENCE = 15.0  # seconds, on a busy machine; a drain has 30

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(400)]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_replicas_over_ray(whisper_folder: Path, t5_folder: Path) -> None:
    url = f"http://127.0.0.1:{(port := free_port())}"
    models = (f"hears={whisper_folder}", f"numbers={t5_folder}")
    options = ("--replicas", "2", "--api-key", "secret", "--port", str(port), "--device", "cpu")
    with served(*models, *options) as (process, lines):
        assert f"{READY}{url}" in lines[-1], "".join(lines)
        headers = {"authorization": "Bearer secret", "x-request-id": "mine-1"}
        with httpx.Client(base_url=url, headers=headers, timeout=SECONDS) as client:
            ask(client)
            listen(f"ws://127.0.0.1:{port}/v1/realtime?model=hears")
            stop(process, client)


def test_one_replica_turns_newcomers_away(t5_folder: Path) -> None:
    """At once, while an open stream goes on: none waits for the end of the drain."""
    options = ("--port", str(port := free_port()), "--device", "cpu")
    with served(f"numbers={t5_folder}", *options) as (process, lines):
        assert READY in lines[-1], "".join(lines)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=SECONDS) as client:
            stop(process, client)


def test_the_application_of_a_cluster(t5_folder: Path) -> None:
    """As `serve deploy` builds it: frontends wait for the engines, and share them."""
    port = free_port()
    args = {
        "models": {"numbers": str(t5_folder)}, "insecure": True, "replicas": 2,
        "engine": {"device": "cpu", "num_threads": 1},
    }  # fmt: skip
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(application(args), name="antiphon", route_prefix="/")
        body = {"model": "numbers", "prompt": "in words: 42"}
        for _ in range(4):
            url = f"http://127.0.0.1:{port}/v1/completions"
            reply = httpx.post(url, json=body, timeout=SECONDS)
            assert reply.json()["choices"][0]["text"] == "forty two"
    finally:
        serve.shutdown()
        ray.shutdown()


def ask(client: httpx.Client) -> None:
    assert httpx.get(client.base_url.join("/v1/models")).status_code == 401
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == [
        "hears",
        "numbers",
    ]
    numbers = {"7": "seven", "42": "forty two", "100": "one hundred", "8": "eight"}

    def words(number: str) -> str:
        body = {"model": "numbers", "prompt": f"in words: {number}"}
        reply = client.post("/v1/completions", json=body)
        assert reply.headers["x-request-id"] == "mine-1"
        return str(reply.json()["choices"][0]["text"])

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(words, numbers)) == list(numbers.values())
    with (RECORDINGS / "call.wav").open("rb") as file:
        reply = client.post("/v1/audio/transcriptions", files={"file": file})
    assert reply.json()["text"] == "call seven nine zero"
    load = client.get("/load").json()["models"]["numbers"]
    assert (load["encoder"]["workers"], load["decoder"]["workers"]) == (1, 1)
    assert load["decoder"]["kv_pages"] > 0
    assert "Antiphon" in client.get("/").text


def listen(url: str) -> None:
    headers = {"authorization": "Bearer secret"}
    with connect(url, additional_headers=headers) as connection:
        assert json.loads(connection.recv(SECONDS))["type"] == "session.created"
        connection.send(json.dumps({"type": "input_audio_buffer.commit"}))
        assert "empty" in json.loads(connection.recv(SECONDS))["error"]["message"]


def stop(process: subprocess.Popen[str], client: httpx.Client) -> None:
    """A stream that is open when SIGTERM comes goes on to its end; newcomers are turned away."""
    body = {"model": "numbers", "prompt": "in words: 1", "ignore_eos": True, "max_tokens": 500}
    replies: list[httpx.Response] = []
    with client.stream("POST", "/v1/completions", json={**body, "stream": True}) as stream:
        events = stream.iter_lines()
        assert next(events).startswith("data:")
        process.send_signal(signal.SIGTERM)
        with httpx.Client(base_url=client.base_url, headers=client.headers) as newcomer:
            while not replies or replies[-1].status_code == 200:
                body = {"model": "numbers", "prompt": "in words: 7"}
                replies.append(newcomer.post("/v1/completions", json=body))
        assert all(reply.elapsed.total_seconds() < PATIENCE for reply in replies)
        rest = [line for line in events if line]
    assert {reply.status_code for reply in replies} <= {200, 503}
    assert replies[-1].headers["retry-after"] == "1"
    assert replies[-1].json()["error"]["code"] == "stopping"
    assert '"finish_reason": "length"' in rest[-2]
    assert process.wait(SECONDS) == 0
