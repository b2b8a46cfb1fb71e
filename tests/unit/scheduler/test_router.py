"""Which encoder and which decoder a request goes to."""

from antiphon.scheduler.router import Route, Router


def test_requests_spread_over_the_least_loaded_workers() -> None:
    router = Router(2, 2)
    routes = [router.route(key, 40) for key in "abcd"]
    assert routes == [Route(0, 0), Route(1, 1), Route(0, 0), Route(1, 1)]
    assert router.encoder_load == router.decoder_load == [80, 80]


def test_media_stay_with_their_workers_until_these_are_overloaded() -> None:
    router = Router(2, 2, imbalance_tokens=100)
    first = router.route("a", 40)
    for _ in range(2):
        assert router.route("a", 40) == first
    assert router.decoder_load == [120, 0]
    assert router.route("a", 40) == Route(1, 1), "affinity must yield to load"
    assert router.route("a", 40) == Route(1, 1)


def test_the_end_of_a_request_releases_its_load() -> None:
    router = Router(1, 3)
    routes = [router.route(key, 10) for key in "abc"]
    router.release(routes[1], 10)
    assert (router.encoder_load, router.decoder_load) == ([20], [10, 0, 10])
    assert router.route("d", 5).decoder == 1
