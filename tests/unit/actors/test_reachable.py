"""An address where something else than Ray listens is refused at once, and quietly."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from antiphon.actors import ray_address
from antiphon.config.errors import ConfigurationError

SETTINGS = bytes([0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 64, 0, 0])  # a window of 4 MiB


@contextmanager
def listening(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """The address of a server that gives each connection to `answer`, once, and then ends it."""
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as thread:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                answer(connection)

        serving = thread.submit(serve)
        yield f"127.0.0.1:{server.getsockname()[1]}"
        serving.result()


def http(connection: socket.socket) -> None:
    connection.recv(100)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


def ssh(connection: socket.socket) -> None:
    connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
    connection.recv(100)


def few_bytes(connection: socket.socket) -> None:
    connection.sendall(SETTINGS[:5])
    connection.recv(100)


def hang_up(connection: socket.socket) -> None:
    connection.recv(1)


@pytest.mark.parametrize("answer", [http, ssh, few_bytes, hang_up])
def test_other_servers(
    answer: Callable[[socket.socket], None], capfd: pytest.CaptureFixture[str]
) -> None:
    with (
        listening(answer) as address,
        pytest.raises(ConfigurationError, match=f"no Ray cluster at {address}: something else"),
    ):
        ray_address.check_reachable(address)
    assert capfd.readouterr() == ("", "")


def test_a_server_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_address, "ANSWER_SECONDS", 0.2)
    refused = threading.Event()
    with listening(lambda connection: refused.wait(10) and None) as address:
        began = time.monotonic()
        with pytest.raises(ConfigurationError, match="something else listens there"):
            ray_address.check_reachable(address)
        assert time.monotonic() - began < 5
        refused.set()


def test_a_server_of_grpc() -> None:
    preface = bytearray()

    def grpc(connection: socket.socket) -> None:
        connection.sendall(SETTINGS)
        preface.extend(connection.recv(100))

    with listening(grpc) as address:
        ray_address.check_reachable(address)
    assert preface.startswith(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")


def test_tls_is_left_to_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "RAY_USE_TLS", "1")
    with listening(lambda connection: None) as address:
        ray_address.check_reachable(address)


def test_a_real_cluster(ray_cluster: None) -> None:
    import ray

    ray_address.check_reachable(ray.get_runtime_context().gcs_address)
