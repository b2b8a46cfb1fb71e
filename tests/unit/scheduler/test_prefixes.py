"""Pages that sequences with the same beginning share: found, counted, let go and evicted."""

from simulated_decoder import (
    PAGE,
    WORDS,
    SimulatedDecoder,
    make_scheduler,
    start,
    text_request,
    undisturbed,
)

from antiphon.config.decoding_rules import DecodingRules
from antiphon.scheduler.generated import Readout
from antiphon.scheduler.request import Finished, Request
from antiphon.scheduler.scheduler import Scheduler


def make_decoder(pages: int = 60, **limits: int) -> SimulatedDecoder:
    return SimulatedDecoder(make_scheduler(pages, **limits), lag=0)


def run(decoder: SimulatedDecoder, *requests: Request) -> dict[int, Finished]:
    """The ends of `requests`, by their number; each as if it had run alone."""
    wanted = {request.id.number: undisturbed(request, 0) for request in requests}
    scheduler = decoder.scheduler
    scheduler.outputs.pop()
    start(decoder, *requests)
    ends: dict[int, Finished] = {}
    for _ in range(500):
        start(decoder)
        decoder.step()
        for output in scheduler.outputs.pop():
            ends.update({end.number: end for end in output.finished})
        if not scheduler.requests and not decoder.in_flight:
            break
    assert {number: end.token_ids for number, end in ends.items()} == wanted
    return ends


def hits(scheduler: Scheduler) -> int:
    return scheduler.counters["prefix_cache_hits"]


def test_full_pages_of_an_equal_beginning_are_shared() -> None:
    decoder = make_decoder()
    scheduler = decoder.scheduler
    run(decoder, text_request(0, WORDS[:11], max_tokens=1))
    assert scheduler.pages.num_free == scheduler.pages.num_pages - 2, "two full pages stay"
    run(decoder, text_request(1, WORDS[:14]))
    assert (hits(scheduler), scheduler.counters["prefix_cache_queries"]) == (8, 11 + 14)
    other = WORDS[:14].copy()
    other[5] += 1  # within the second page
    run(decoder, text_request(2, other))
    assert hits(scheduler) == 8 + 4
    other[0] += 1  # the third page's own tokens are the same
    run(decoder, text_request(3, other))
    assert hits(scheduler) == 8 + 4


def test_the_last_token_is_always_computed() -> None:
    decoder = make_decoder()
    scheduler = decoder.scheduler
    for number in range(3):
        run(decoder, text_request(number, WORDS[:8]))
    assert hits(scheduler) == 4 + 4, "of two full pages the second holds the last token"


def test_what_a_sequence_generated_is_found_as_well() -> None:
    """The next turn of a chat holds the answer before it."""
    decoder = make_decoder()
    scheduler = decoder.scheduler
    request = text_request(0, WORDS[:7], max_tokens=9, seed=3)
    answer = run(decoder, request)[0].token_ids
    assert len(answer) > 3
    run(decoder, text_request(1, [*WORDS[:7], *answer, 50]))
    assert hits(scheduler) == (7 + len(answer) - 1) // PAGE * PAGE


def test_what_is_read_out_is_computed() -> None:
    decoder = make_decoder()
    scheduler = decoder.scheduler
    run(decoder, text_request(0, WORDS[:20]))
    ends = run(decoder, text_request(1, WORDS[:20], readouts=(Readout(9, 50),)))
    assert list(ends[1].readout_values) == [0]
    assert hits(scheduler) == 8


def test_beginnings_with_other_inputs_differ() -> None:
    decoder = make_decoder()
    scheduler = decoder.scheduler
    run(decoder, text_request(0, WORDS[:16], inputs=[("a", 2, 4)]))
    run(decoder, text_request(1, WORDS[:16], inputs=[("b", 2, 4)]))
    run(decoder, text_request(2, WORDS[:16]))
    run(decoder, text_request(3, WORDS[:16], inputs=[("a", 3, 4)]))
    assert hits(scheduler) == 0
    run(decoder, text_request(4, WORDS[:16], inputs=[("a", 2, 4)]))
    assert hits(scheduler) == 12


def test_an_input_whose_keys_are_cached_is_not_encoded_again() -> None:
    decoder = make_decoder(encode_ahead_tokens=6)
    scheduler = decoder.scheduler
    run(decoder, text_request(0, WORDS[:16], inputs=[("a", 2, 6)]))
    run(decoder, text_request(1, WORDS[:16], inputs=[("b", 2, 6)]))  # the states of "a" make room
    assert scheduler.counters["encodes"] == 2
    run(decoder, text_request(2, [*WORDS[:16], 9], inputs=[("a", 2, 6)]))
    assert scheduler.counters["encodes"] == 2
    assert hits(scheduler) == 16
    # The second "a" is not within the beginning that is cached.
    run(decoder, text_request(3, [*WORDS[:20], 9], inputs=[("a", 2, 6), ("a", 14, 6)]))
    assert scheduler.counters["encodes"] == 3
    assert scheduler.encodes.tokens == 0


def test_states_of_an_input_that_is_cached_meanwhile_are_let_go() -> None:
    """Both wait for the same input; the second runs when the first has filled its pages."""
    decoder = make_decoder(max_num_seqs=1)
    scheduler = decoder.scheduler
    run(
        decoder,
        text_request(0, WORDS[:16], inputs=[("a", 2, 6)]),
        text_request(1, WORDS[:17], inputs=[("a", 2, 6)]),
    )
    assert hits(scheduler) == 16
    assert scheduler.encodes.tokens == 0
    assert not scheduler.encodes.waiting(["a"])


def test_a_beginning_that_is_evicted_meanwhile_has_its_input_encoded_after_all() -> None:
    decoder = make_decoder(pages=9, max_num_seqs=1, encode_ahead_tokens=6)
    scheduler = decoder.scheduler
    run(decoder, text_request(0, WORDS[:12], inputs=[("a", 2, 6)]))
    run(decoder, text_request(1, WORDS[:12], inputs=[("b", 2, 6)]))
    assert scheduler.counters["encodes"] == 2
    run(
        decoder,
        text_request(2, WORDS[::-1][:30]),  # takes the pages of "a"
        text_request(3, WORDS[:13], inputs=[("a", 2, 6)]),  # ready at once, and again
    )
    assert scheduler.counters["encodes"] == 3


def test_long_unused_beginnings_are_evicted_and_their_ends_first() -> None:
    decoder = make_decoder(pages=10)
    scheduler = decoder.scheduler
    run(decoder, text_request(0, WORDS[:17], max_tokens=1))  # 4 full pages
    run(decoder, text_request(1, WORDS[::-1][:9], max_tokens=1))  # 2 of another beginning
    run(decoder, text_request(2, WORDS[10:35], max_tokens=1))  # 7 pages: 3 of the first go
    run(decoder, text_request(3, WORDS[::-1][:9], max_tokens=1))
    assert hits(scheduler) == 8
    run(decoder, text_request(4, WORDS[:17], max_tokens=1))
    assert hits(scheduler) == 8 + 4


def test_nothing_is_shared_that_attends_to_something_or_where_it_is_off() -> None:
    decoder = make_decoder(prefix_caching=False)
    scheduler = decoder.scheduler
    for number in range(2):
        run(decoder, text_request(number, WORDS[:16]))
    assert hits(scheduler) == 0
    assert scheduler.pages.num_free == scheduler.pages.num_pages


def test_pages_of_a_step_that_failed_are_not_found() -> None:
    decoder = make_decoder()
    scheduler = decoder.scheduler
    decoder.breaks.add("result")
    start(decoder, text_request(0, WORDS[:16]))
    for _ in range(5):
        decoder.step()
    assert scheduler.counters["failed"] == 1
    run(decoder, text_request(1, WORDS[:16]))
    assert hits(scheduler) == 0


def test_running_sequences_go_on_beside_chunks_with_inputs_in_them() -> None:
    """Each step has a token for every running one, however long the prompts beside them are."""
    decoder = make_decoder(max_batched_tokens=7, max_num_seqs=6)
    scheduler = decoder.scheduler
    running = [text_request(number, WORDS[:2], 25, seed=900 + number) for number in range(2)]
    for request in running:
        request.rules = DecodingRules()  # they end with their length
    start(decoder, *running)
    while not all(request.slot >= 0 for request in running):
        decoder.step()
    prompts = [
        text_request(number, WORDS[:30] + number, 4, inputs=[("a", 3, 11), ("b", 17, 9)])
        for number in (2, 3)
    ]
    wanted = {request.id.number: undisturbed(request, 0) for request in prompts}
    start(decoder, *prompts)
    chunks = 0
    while scheduler.requests and any(request.id in scheduler.requests for request in prompts):
        before = [scheduler.batch.length[request.slot] for request in running]
        decoder.step()
        if all(request.id in scheduler.requests for request in running):
            after = [scheduler.batch.length[request.slot] for request in running]
            assert [new - old for new, old in zip(after, before, strict=True)] == [1, 1]
            chunks += 1
    assert chunks >= 10
    ends = [end for output in scheduler.outputs.pop() for end in output.finished]
    assert {end.number: end.token_ids for end in ends if end.number in wanted} == wanted
