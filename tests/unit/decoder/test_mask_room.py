"""Requests that each bring a mask of their own, more than there are slots, admitted and ended in
any order: the table never grows, and the rules that graphs hold are enough."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plain_engine import PlainEngine
from random_examples import examples

from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.sampling import SamplingParams
from antiphon.decoder.sampling.sampler import Sampler
from antiphon.scheduler.request import Request, RequestState

SLOTS, MASKS = 3, 10


class Watched:
    """An engine, and what each request gets alone."""

    def __init__(self, folder: Any) -> None:
        self.engine = PlainEngine(folder, max_num_seqs=SLOTS, max_model_len=16, kv_page_size=4)
        self.masks = self.engine.replica.runner.slots.masks
        self.address = self.masks.rows.data_ptr()
        self.alone = []
        for number in range(MASKS):
            id_ = self.engine.submit(self.request(number))
            self.alone.append(self.engine.run()[id_].token_ids)

    def request(self, number: int) -> Request:
        """With two masks that no other number has."""
        params = SamplingParams(logit_bias={5 + number: 9.0, 30 + 2 * number: 8.5})
        rules = DecodingRules(suppress=(4,), begin_suppress=(60 + number, 5 + number))
        text = np.arange(3, 6 + number % 3, dtype=np.int32)
        return self.engine.request(text, [2], 3 + number % 4, rules, params=params)

    def step(self) -> None:
        self.engine.step()
        assert self.masks.rows.data_ptr() == self.address
        assert len(self.masks.rows) == 2 * SLOTS + 1
        assert sum(users > 0 for users in self.masks._users) <= 2 * SLOTS


@pytest.fixture(scope="module")
def watched(checkpoints: Any) -> Watched:
    return Watched(checkpoints("bart")[0])


def test_every_mask_changes_the_text(watched: Watched) -> None:
    assert len({tuple(tokens) for tokens in watched.alone}) == MASKS


@examples(40)
@given(
    st.lists(
        st.tuples(st.integers(0, MASKS - 1), st.integers(0, 3), st.booleans()),
        min_size=1,
        max_size=14,
    )
)
def test_any_order_of_arrivals_and_ends_finds_room(
    watched: Watched, arrivals: list[tuple[int, int, bool]]
) -> None:
    """An arrival: number of the request, steps before the next one, and whether that one finds it
    cancelled."""
    engine, submitted = watched.engine, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sampler, "_resampled", None)  # no row may need it
        for number, steps, is_cancelled in arrivals:
            request = watched.request(number)
            submitted.append((engine.submit(request), number))
            for _ in range(steps):
                watched.step()
            if is_cancelled:
                engine.replica.scheduler.cancel(request.id)
        while engine.replica.scheduler.requests:
            watched.step()
        watched.step()
    for id_, number in submitted:
        end = engine.finished[id_]
        if end.state is RequestState.DONE:
            assert end.token_ids == watched.alone[number]
        else:
            assert end.state is RequestState.CANCELLED
