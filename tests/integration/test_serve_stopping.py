"""A server that is told to stop: open requests end, new ones are told to come again."""

import io
import json
import logging
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from http_server import running_server
from serve_command import READY, served

from antiphon.serve.logs import handler_of
from antiphon.serve.settings import Limits

SECONDS = 60.0
BODY = json.dumps({"prompt": "in words: 42"}).encode()


@contextmanager
def half_sent(url: str) -> Iterator[socket.socket]:
    """A request whose body lacks its end."""
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port), timeout=SECONDS) as connection:
        head = (
            f"POST /v1/completions HTTP/1.1\r\nhost: {address.host}\r\nconnection: close\r\n"
            f"content-type: application/json\r\ncontent-length: {len(BODY)}\r\n\r\n"
        )
        connection.sendall(head.encode() + BODY[:10])
        yield connection


def finished(connection: socket.socket) -> tuple[int, str]:
    """Sends the rest of the body. Returns the status of the answer, and the answer."""
    connection.sendall(BODY[10:])
    with connection.makefile("rb") as file:
        head, _, body = file.read().partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode()


def wait_until_not_ready(client: httpx.Client) -> None:
    end = time.monotonic() + SECONDS
    while client.get("/ready").status_code != 503:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_open_requests_end_and_new_ones_are_turned_away(t5_folder: Path) -> None:
    with (
        running_server({"numbers": str(t5_folder)}) as running,
        half_sent(running.url) as connection,
        httpx.Client(base_url=running.url) as client,
    ):
        while not running.service.admission.open:
            time.sleep(0.001)
        running.begin_to_stop()
        wait_until_not_ready(client)
        with httpx.Client(base_url=running.url) as newcomer:
            reply = newcomer.post("/v1/completions", json={"prompt": "in words: 7"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "stopping")
        assert int(reply.headers["retry-after"]) > 0
        assert client.get("/health").status_code == 200
        assert running.thread.is_alive()
        status, answer = finished(connection)
        assert (status, json.loads(answer)["choices"][0]["text"]) == (200, "forty two")
        running.thread.join(SECONDS)
        assert not running.thread.is_alive()


def test_requests_that_outlive_the_drain_are_told_so(t5_folder: Path) -> None:
    limits = Limits(drain_seconds=0.2)
    with running_server({"numbers": str(t5_folder)}, limits) as running:
        with half_sent(running.url) as connection:
            while not running.service.admission.open:
                time.sleep(0.001)
            running.begin_to_stop()
            with connection.makefile("rb") as file:
                answer = file.read()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b'"code":"stopping"' in answer


def test_every_line_of_the_log_has_its_request(t5_folder: Path) -> None:
    log, logger = io.StringIO(), logging.getLogger("antiphon")
    handler, level = handler_of(log), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with running_server({"numbers": str(t5_folder)}) as running:
            url, engine = running.url, running.service.models["numbers"].engine
            begin = engine.inputs.begin

            def noisy(*arguments: object) -> object:
                logging.getLogger("antiphon.inputs").info("tokenizing")
                return begin(*arguments)

            engine.inputs.begin = noisy
            headers = {"x-request-id": "mine-1"}
            reply = httpx.post(
                f"{url}/v1/completions", content=BODY,
                headers={**headers, "content-type": "application/json"},
            )  # fmt: skip
            assert reply.status_code == 200
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    lines = log.getvalue().splitlines()
    line = re.compile(r"[\d-]+ [\d:,]+ [A-Z]+ (\S+) (.*)")
    parts = [match.groups() for text in lines if (match := line.fullmatch(text))]
    assert len(parts) == len(lines)
    ids = {message: id_ for id_, message in parts}
    assert ids["tokenizing"] == "mine-1"  # in a thread of the engine
    (access,) = (text for text in ids if text.startswith("POST /v1/completions 200 "))
    assert ids[access] == "mine-1"
    assert ids[f"ready: {url}"] == "-"


@pytest.mark.slow
def test_the_command_stops_with_code_0(t5_folder: Path, tmp_path: Path) -> None:
    """With all options in a file."""
    file = tmp_path / "serve.yaml"
    file.write_text(
        f"models:\n  counts: {t5_folder}\nport: 0\napi_keys: [secret]\n"
        "limits: {upload_mib: 1, drain_seconds: 20}\nengine: {ray: false, max_num_seqs: 4}\n"
    )
    with served("--config", str(file)) as (process, lines):
        url = lines[-1].split(READY)[1].strip()
        assert any("serving counts; 1 API keys; up to 1 MiB" in line for line in lines)
        headers = {"authorization": "Bearer secret"}
        with httpx.Client(base_url=url, headers=headers, timeout=SECONDS) as client:
            reply = client.post("/v1/completions", json={"prompt": "in words: 42"})
            assert reply.json()["model"] == "counts"
            body = {"prompt": "in words: 1", "ignore_eos": True, "max_tokens": 400}
            with client.stream("POST", "/v1/completions", json={**body, "stream": True}) as it:
                events = it.iter_lines()
                assert next(events).startswith("data:")
                process.send_signal(signal.SIGTERM)
                rest = [line for line in events if line]
        assert '"finish_reason": "length"' in rest[-2]
        assert rest[-1] == "data: [DONE]"
        assert process.wait(SECONDS) == 0
        assert process.stderr is not None
        log = "".join([*lines, process.stderr.read()])
        assert " stopping: " in log
        assert "secret" not in log
