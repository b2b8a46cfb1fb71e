"""A connection that closes before any byte of its answer is asked again, once, and counted."""

import asyncio

import httpx
import pytest

from antiphon.benchmarks.service.nuisances import Blanks
from antiphon.benchmarks.service.wire import Asker


def asked(failures: list[httpx.TransportError]) -> tuple[Asker, list[int]]:
    """An asker whose first connections fail so, after one request; the lengths of bodies that
    arrived."""
    arrived: list[int] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        arrived.append(len(await request.aread()))
        if failures:
            raise failures.pop(0)
        return httpx.Response(413, text="too large")

    async def scenario() -> Asker:
        transport = httpx.MockTransport(answer)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as http:
            asker = Asker(http)
            reply = await asker.post("/v1/completions", content=Blanks(100_000))
            assert (reply.status_code, reply.text) == (413, "too large")
            return asker

    return asyncio.run(scenario()), arrived


@pytest.mark.parametrize("error", [httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError])
def test_it_is_asked_again_with_the_whole_body(error: type[httpx.TransportError]) -> None:
    asker, arrived = asked([error("closed")])
    assert asker.closed == 1
    assert arrived == [100_000, 100_000]


def test_an_answer_is_not_asked_again() -> None:
    asker, arrived = asked([])
    assert asker.closed == 0
    assert arrived == [100_000]


@pytest.mark.parametrize(
    "failures", [[httpx.ReadError("1"), httpx.ReadError("2")], [httpx.ConnectError("none")]]
)
def test_other_failures_show(failures: list[httpx.TransportError]) -> None:
    with pytest.raises(httpx.TransportError):
        asked(failures)
