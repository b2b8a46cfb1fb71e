"""Which encoder and which decoder a request goes to."""

from typing import Any

import pytest

from antiphon.scheduler.request import Incarnation
from antiphon.scheduler.router import Route, Router
from antiphon.scheduler.sketch import fingerprint, fingerprints, sketch
from antiphon.scheduler.worker_load import WorkerState


def worker(name: str, **fields: Any) -> WorkerState:
    role: Any = "encoder" if name.startswith("e") else "decoder"
    return WorkerState(name, role, **fields)


def workers(*names: str) -> list[WorkerState]:
    return [worker(name) for name in names]


PAIRS = workers("e0", "e1", "d0", "d1")


def loads(router: Router, *names: str) -> list[float]:
    return [router.load_of(name) for name in names]


def test_requests_spread_over_the_least_loaded_workers() -> None:
    router = Router(PAIRS)
    routes = [router.route(key, 40) for key in "abcd"]
    assert routes == [Route("e0", "d0"), Route("e1", "d1")] * 2
    assert loads(router, "e0", "e1", "d0", "d1") == [80] * 4


def test_media_stay_with_their_decoder_until_it_is_overloaded() -> None:
    router = Router(PAIRS, imbalance_tokens=100)
    for _ in range(3):
        assert router.route("a", 40).decoder == "d0"
    assert loads(router, "d0", "d1") == [120, 0]
    assert router.route("a", 40).decoder == "d1", "affinity must yield to load"
    assert router.route("a", 40).decoder == "d1"


def test_the_end_of_a_request_releases_its_load() -> None:
    router = Router(workers("e0", "d0", "d1", "d2"))
    routes = [router.route(key, 10) for key in "abc"]
    router.release(routes[1], 10)
    assert loads(router, "e0", "d0", "d1", "d2") == [20, 10, 0, 10]
    assert router.route("d", 5).decoder == "d1"


def test_reports_tell_what_other_frontends_send() -> None:
    router = Router(workers("e0", "d0", "d1"))
    router.update([worker("e0"), worker("d0", load={"tokens": 500}), worker("d1")])
    assert [router.route(key, 100).decoder for key in "abcdef"] == ["d1"] * 5 + ["d0"]


def test_a_report_replaces_what_was_counted_since_the_last_one() -> None:
    router = Router(workers("e0", "d0"))
    for beats in range(1, 4):  # the encoder's queue is empty whenever it reports
        router.route("a", 40)
        assert router.load_of("e0") == 40
        router.update([worker("e0", load={"tokens": 0, "heartbeats": beats}), worker("d0")])
    assert loads(router, "e0", "d0") == [0, 120]
    router.update([worker("e0", load={"tokens": 0, "heartbeats": 3}), worker("d0")])
    router.release(Route("e0", "d0"), 40)  # ended, and had long been encoded
    assert loads(router, "e0", "d0") == [0, 80]


def test_requests_go_to_a_decoder_that_holds_their_media() -> None:
    router = Router(PAIRS)
    router.update([*PAIRS[:3], worker("d1", held=sketch(["a", "b"]), load={"tokens": 90})])
    assert router.route("a", 40).decoder == "d1"
    assert router.route("c", 40).decoder == "d0"


def busy(name: str, open_requests: int, beats: int = 1, **fields: Any) -> WorkerState:
    load = {"tokens": 7 * open_requests, "open": open_requests, "capacity": 4, "heartbeats": beats}
    return worker(name, load=load, **fields)


def test_a_decoder_that_joins_a_full_pool_gets_requests_for_media_that_another_one_holds() -> None:
    held = sketch("ab")
    router = Router(workers("e0", "d0"))
    assert router.route("a", 7).decoder == "d0"
    router.update([worker("e0"), busy("d0", 16, held=held), busy("d1", 0)])
    assert [router.route(key, 7).decoder for key in "abab"] == ["d1"] * 4
    router.update([worker("e0"), busy("d0", 3, 2, held=held), busy("d1", 4, 2, held=held)])
    assert router.route("a", 7).decoder == "d0"


def test_media_stay_with_a_full_decoder_while_all_others_are_nearly_as_full() -> None:
    router = Router()
    router.update([worker("e0"), busy("d0", 9, held=sketch("a")), busy("d1", 5)])
    assert router.route("a", 7).decoder == "d0", "queues of 5 and 1: one turn in line apart"
    assert router.route("a", 7).decoder == "d1", "of 7 and 2"


def test_a_free_slot_goes_before_fewer_tokens() -> None:
    router = Router()
    few_tokens = worker("d0", load={"tokens": 20, "open": 4, "capacity": 4})
    many_tokens = worker("d1", load={"tokens": 900, "open": 1, "capacity": 4})
    router.update([worker("e0"), few_tokens, many_tokens])
    routes = [router.route(None, 0).decoder for _ in range(3)]
    assert [*routes, router.route("a", 7).decoder] == ["d1"] * 3 + ["d0"]


def test_a_new_life_holds_nothing_and_has_no_load() -> None:
    router = Router(workers("e0", "d0"))
    router.route("a", 40)
    assert router.incarnation("d0") == Incarnation("d0", 0)
    router.update([worker("e0"), worker("d0", alive=False)])
    assert router.incarnation("d0") is None
    assert router.route("a", 40) is None
    router.update([worker("e0"), worker("d0", epoch=1)])
    assert loads(router, "d0") == [0]
    assert router.route("a", 40) == Route("e0", "d0")
    assert router.incarnation("d0") == Incarnation("d0", 1)


@pytest.mark.parametrize("role", ["encoder", "decoder"])
def test_draining_workers_get_nothing(role: str) -> None:
    router = Router([state for state in PAIRS if state.role != role])
    names = [state.name for state in PAIRS if state.role == role]
    others = [state for state in PAIRS if state.role != role]
    router.update([worker(names[0], draining=True), worker(names[1]), *others])
    for _ in range(3):
        assert names[1] in router.route("a", 10)
    router.update([worker(names[0], draining=True), worker(names[1], alive=False), *others])
    assert router.route("a", 10) is None


def test_halves_of_one_process_stay_together() -> None:
    names = ("encoder-0", "encoder-1", "decoder-0", "decoder-1")
    router = Router(workers(*names), paired=True)
    routes = [router.route(key, tokens) for key, tokens in [("a", 10), ("b", 50), ("a", 10)]]
    assert {(route.encoder[-1], route.decoder[-1]) for route in routes} == {("0", "0"), ("1", "1")}


def test_a_sketch_tells_which_keys_are_held() -> None:
    held = fingerprints(sketch(f"key{i}" for i in range(1000)))
    assert len(sketch(map(str, range(10_000)))) == 4 * 4096
    assert all(fingerprint(f"key{i}") in held for i in range(1000))
    assert fingerprint("another") not in held
