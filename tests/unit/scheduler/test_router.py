"""Which encoder and which decoder a request goes to."""

from antiphon.scheduler.router import Route, Router

ENCODERS, DECODERS = ["e0", "e1"], ["d0", "d1"]


def test_requests_spread_over_the_least_loaded_workers() -> None:
    router = Router(ENCODERS, DECODERS)
    routes = [router.route(key, 40) for key in "abcd"]
    assert routes == [Route("e0", "d0"), Route("e1", "d1")] * 2
    assert list(router.encoder_load.values()) == list(router.decoder_load.values()) == [80, 80]


def test_media_stay_with_their_workers_until_these_are_overloaded() -> None:
    router = Router(ENCODERS, DECODERS, imbalance_tokens=100)
    first = router.route("a", 40)
    for _ in range(2):
        assert router.route("a", 40) == first
    assert router.decoder_load == {"d0": 120, "d1": 0}
    assert router.route("a", 40) == Route("e1", "d1"), "affinity must yield to load"
    assert router.route("a", 40) == Route("e1", "d1")


def test_the_end_of_a_request_releases_its_load() -> None:
    router = Router(["e0"], ["d0", "d1", "d2"])
    routes = [router.route(key, 10) for key in "abc"]
    router.release(routes[1], 10)
    assert router.encoder_load == {"e0": 20}
    assert router.decoder_load == {"d0": 10, "d1": 0, "d2": 10}
    assert router.route("d", 5).decoder == "d1"
