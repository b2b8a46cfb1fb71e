"""A client that is closed leaves nobody waiting."""

import socket
import threading
from collections.abc import Iterator

import pytest

from antiphon.client import Client, ClientError


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("streams", [False, True])
def test_calls_of_other_threads_end(silent: str, streams: bool) -> None:
    client, errors = Client(silent), list[ClientError]()

    def ask() -> None:
        try:
            list(client.stream("x") if streams else client.models())
        except ClientError as error:
            errors.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(0.3)
    assert asking.is_alive()
    client.close()
    asking.join(20)
    assert not asking.is_alive()
    assert [str(error) for error in errors] == ["the client was closed"]


def test_calls_behind_the_end_are_refused(silent: str) -> None:
    client = Client(silent)
    client.close()
    client.close()
    for call in (client.models, lambda: list(client.stream("x")), lambda: client.generate("x")):
        with pytest.raises(ClientError, match="the client was closed"):
            call()


def test_several_threads_may_close(silent: str) -> None:
    client = Client(silent)
    closing = [threading.Thread(target=client.close, daemon=True) for _ in range(4)]
    for thread in closing:
        thread.start()
    for thread in closing:
        thread.join(20)
    assert not any(thread.is_alive() for thread in closing)


@pytest.mark.parametrize("name", ["models", "close"])
def test_a_call_from_its_own_thread_would_wait_for_itself(silent: str, name: str) -> None:
    with Client(silent) as client:
        errors = list[str]()

        def ask() -> None:
            try:
                getattr(client, name)()
            except ClientError as error:
                errors.append(str(error))
            finally:
                done.set()

        done = threading.Event()
        client._loop.call_soon_threadsafe(ask)
        assert done.wait(20)
    assert errors == ["this is the client's own thread: a call would wait for itself"]
