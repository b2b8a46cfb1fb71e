"""Limits of a server, each just under and just over; clients that leave or stop reading."""

import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from http_server import Running, running_server

from antiphon.actors.messages import Cancel
from antiphon.serve.settings import Limits

KEY = {"authorization": "Bearer correct"}
# The model would end after a few words; this goes on for some thousand steps.
ENDLESS = {"prompt": "in words: 1", "ignore_eos": True, "max_tokens": 500}


@pytest.fixture(scope="module")
def server(t5_folder: Path) -> Iterator[Running]:
    limits = Limits(upload_mib=0.01, open_requests=3, prompts=2, idle_seconds=2)
    with running_server({"numbers": str(t5_folder)}, limits, api_keys=("correct",)) as running:
        yield running


@pytest.fixture
def client(server: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, headers=KEY, timeout=60) as client:
        yield client


def complete(client: httpx.Client, prompt: Any = "in words: 7", **fields: Any) -> httpx.Response:
    return client.post("/v1/completions", json={"prompt": prompt, **fields})


def error(reply: httpx.Response) -> dict[str, Any]:
    detail = reply.json()["error"]
    assert set(detail) == {"message", "type", "param", "code"}
    return detail


def counter(client: httpx.Client, name: str) -> int:
    text = client.get("/metrics").text
    match = re.search(rf'antiphon_engine{{counter="{name}".*}} ([\d.]+)', text)
    return 0 if match is None else int(float(match[1]))


def wait_until_free(client: httpx.Client, pages: int) -> None:
    end = time.monotonic() + 30
    while counter(client, "open") or counter(client, "kv_pages_available") < pages:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_keys(server: Running) -> None:
    with httpx.Client(base_url=server.url) as client:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "correct"}):
            for path in ("/v1/models", "/metrics", "/openapi.json", "/nowhere"):
                reply = client.get(path, headers=headers)
                assert reply.status_code == 401
                assert error(reply)["code"] == "invalid_api_key"
        assert client.get("/health").status_code == 200
        assert client.get("/ready").status_code == 200
        assert client.get("/v1/models", headers=KEY).status_code == 200


def test_ids_of_requests(client: httpx.Client) -> None:
    assert client.get("/health", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == (
        "mine-1"
    )
    made = client.get("/health", headers={"x-request-id": "not valid\tat all"})
    assert made.headers["x-request-id"].startswith("req-")
    assert client.get("/nowhere").headers["x-request-id"].startswith("req-")


def test_errors_have_one_shape(client: httpx.Client) -> None:
    for reply, status, kind in (
        (client.get("/nowhere"), 404, "not_found_error"),
        (client.get("/v1/completions"), 405, "not_found_error"),
        (client.post("/v1/completions", content=b"{"), 400, "invalid_request_error"),
        (client.post("/v1/completions", json={}), 400, "invalid_request_error"),
        (client.post("/v1/audio/transcriptions", json={}), 400, "invalid_request_error"),
    ):
        assert (reply.status_code, error(reply)["type"]) == (status, kind)
    assert (
        "access-control-allow-origin"
        not in client.get("/health", headers={"origin": "http://elsewhere"}).headers
    )


@pytest.mark.parametrize("chunked", [False, True])
def test_the_size_of_a_body(client: httpx.Client, chunked: bool) -> None:
    limit = int(0.01 * (1 << 20))

    def send(size: int) -> httpx.Response:
        head = b'{"prompt": "in words: 7", "user": "'
        body = head + b"u" * (size - len(head) - 2) + b'"}'
        content = iter([body]) if chunked else body
        return client.post(
            "/v1/completions", content=content, headers={"content-type": "application/json"}
        )

    assert send(limit).status_code == 200
    reply = send(limit + 1)
    assert (reply.status_code, error(reply)["code"]) == (413, "body_too_large")


def test_the_number_of_prompts(client: httpx.Client) -> None:
    assert complete(client, ["in words: 7"] * 2).status_code == 200
    reply = complete(client, ["in words: 7"] * 3)
    assert (reply.status_code, error(reply)["param"]) == (400, "prompt")


def test_the_number_of_tokens(client: httpx.Client) -> None:
    reply = complete(client, "in words: 7 " * 600)
    assert reply.status_code == 400
    assert "tokens" in error(reply)["message"]


def test_a_deadline(client: httpx.Client) -> None:
    reply = complete(client, ENDLESS["prompt"], ignore_eos=True, max_tokens=500, timeout=0.001)
    assert (reply.status_code, error(reply)["code"]) == (504, "deadline_exceeded")


def test_the_number_of_open_requests(server: Running, client: httpx.Client) -> None:
    """Two that never send their bodies are open, then a third and a fourth come."""
    host, port = httpx.URL(server.url).host, httpx.URL(server.url).port
    head = (
        f"POST /v1/completions HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer correct\r\n"
        "content-type: application/json\r\ncontent-length: 100\r\n\r\n"
    ).encode()
    with ExitStack() as scope:
        slow = [scope.enter_context(socket.create_connection((host, port))) for _ in range(2)]
        for connection in slow:
            connection.sendall(head)
        while server.service.admission.open < 2:
            time.sleep(0.001)
        assert complete(client).status_code == 200
        slow.append(scope.enter_context(socket.create_connection((host, port))))
        slow[2].sendall(head)
        while server.service.admission.open < 3:
            time.sleep(0.001)
        for connection in slow:
            connection.sendall(b" ")  # their time without a byte begins again
        reply = complete(client)
        assert (reply.status_code, error(reply)["type"]) == (429, "rate_limit_error")
        assert 1 <= int(reply.headers["retry-after"]) <= 60
        # A client that sends nothing for `idle_seconds` is told so.
        assert b" 408 " in slow[0].recv(1000)
    while server.service.admission.open:
        time.sleep(0.001)
    assert complete(client).status_code == 200


@contextmanager
def steps_at_cancellations(server: Running) -> Iterator[list[int]]:
    """How many steps the decoder had begun whenever it was told to cancel a request."""
    workers, steps = server.service.models["numbers"].engine.workers, []
    send = workers.send

    def watched(worker: str, message: Any) -> None:
        if isinstance(message, Cancel):
            steps.append(workers.counters()["steps"])
        send(worker, message)

    workers.send = watched
    try:
        yield steps
    finally:
        workers.send = send


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_pages_within_a_step(
    server: Running, client: httpx.Client, stream: bool
) -> None:
    pages = counter(client, "kv_pages_available")
    with (
        steps_at_cancellations(server) as steps,
        httpx.Client(base_url=server.url, headers=KEY) as leaving,
    ):
        if stream:
            with leaving.stream("POST", "/v1/completions", json={**ENDLESS, "stream": True}) as it:
                assert next(it.iter_lines()).startswith("data:")
        else:
            with pytest.raises(httpx.ReadTimeout):
                leaving.post("/v1/completions", json=ENDLESS, timeout=0.1)
        wait_until_free(client, pages)
    assert len(steps) == 1
    # One step may be in flight when the message comes, and one behind it.
    assert counter(client, "steps") - steps[0] <= 2
    assert server.service.admission.open == 0


def test_a_client_that_reads_nothing_holds_no_pages(server: Running, client: httpx.Client) -> None:
    """Its text is made as fast as for others, and waits for it without pages."""
    pages = counter(client, "kv_pages_available")
    body = {**ENDLESS, "max_tokens": 200, "stream": True}
    with client.stream("POST", "/v1/completions", json=body) as stream:
        wait_until_free(client, pages)
        lines = [line for line in stream.iter_lines() if line]
    assert '"finish_reason": "length"' in lines[-2]


def test_more_than_may_wait_in_the_engine_are_told_to_come_again(t5_folder: Path) -> None:
    options = {"max_waiting_requests": 1, "max_num_seqs": 1}
    with (
        running_server({"numbers": str(t5_folder)}, options=options) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        reply = complete(client, ["in words: 7"] * 8)
        assert (reply.status_code, error(reply)["code"]) == (429, "too_many_requests")
        assert int(reply.headers["retry-after"]) >= 1
        assert complete(client).status_code == 200
