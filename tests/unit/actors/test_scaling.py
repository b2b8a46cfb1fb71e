"""The policy by which pools of workers grow and shrink."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plain_engine import cold
from tiny_mllama import make_mllama
from tiny_vlms import make_vlm
from transformers import PreTrainedModel

from antiphon.actors.encoder_worker import EncoderWorker
from antiphon.actors.members import Kill, Limits, Start
from antiphon.actors.membership import WINDOW_SECONDS, Membership
from antiphon.actors.scaling import (
    GROW_SECONDS,
    SHRINK_SECONDS,
    Autoscaler,
    Bounds,
    Pools,
    demand,
)
from antiphon.config.options import resolve
from antiphon.decoder.room import tokens_ahead
from antiphon.families.checkpoint import ModelConfig
from antiphon.scheduler.limits import encoder_capacity
from antiphon.scheduler.request import Incarnation


def steady(scaler: Autoscaler, work: float, current: int, seconds: float) -> int:
    """What is wanted after this work has lasted for `seconds`."""
    scaler.wanted(work, current, 100.0)
    return scaler.wanted(work, current, 100.0 + seconds)


def test_demand_counts_what_each_worker_can_hold() -> None:
    loads = [{"open": 96, "capacity": 64}, {"open": 32, "capacity": 64}, {}]
    assert demand(loads) == 2.0


@pytest.mark.parametrize(
    ("work", "current", "seconds", "wanted"),
    [
        (1.0, 1, GROW_SECONDS, 1),  # just fits
        (1.2, 1, GROW_SECONDS - 0.1, 1),  # not for long enough
        (1.2, 1, GROW_SECONDS, 2),
        (3.5, 1, GROW_SECONDS, 4),  # in one go
        (99.0, 2, GROW_SECONDS, 4),  # not beyond the bound
        (0.4, 2, SHRINK_SECONDS - 1, 2),
        (0.4, 2, SHRINK_SECONDS, 1),
        (0.6, 2, SHRINK_SECONDS, 2),  # one would be too busy
        (0.0, 4, SHRINK_SECONDS, 3),  # one at a time
        (0.0, 1, SHRINK_SECONDS, 1),
    ],
)
def test_growing_and_shrinking(work: float, current: int, seconds: float, wanted: int) -> None:
    assert steady(Autoscaler(Bounds(1, 4)), work, current, seconds) == wanted


def test_a_burst_that_passes_starts_nobody() -> None:
    scaler = Autoscaler(Bounds(1, 4))
    counts = [scaler.wanted(work, 1, now) for now, work in enumerate([2.0, 0.5, 2.0, 0.5, 2.0])]
    assert counts == [1] * 5


@given(
    st.lists(st.tuples(st.floats(0, 50), st.floats(0, 5)), min_size=1),
    st.integers(1, 3),
    st.integers(0, 4),
)
def test_the_bounds_always_hold(steps: list[tuple[float, float]], least: int, more: int) -> None:
    scaler, current, now = Autoscaler(Bounds(least, least + more)), least, 1.0
    for work, seconds in steps:
        now += seconds
        current = scaler.wanted(work, current, now)
        assert least <= current <= least + more


@pytest.mark.parametrize(
    ("batch", "ahead", "capacity"),
    [(16_384, 96_000, 32_768), (16_384, 2048, 1024), (8, 1, 1), (8, None, 16)],
)
def test_what_decoders_ask_for_ahead_can_be_more_than_an_encoder_holds(
    batch: int, ahead: int | None, capacity: int
) -> None:
    """Else a pool of encoders would never grow, however long decoders wait for one."""
    assert encoder_capacity(batch, ahead) == capacity


@pytest.mark.parametrize("make", [partial(make_vlm, "llava"), make_mllama])
def test_a_full_decoder_asks_for_more_than_its_encoder_counts_as_room(
    make: Callable[[Path], PreTrainedModel], tmp_path: Path
) -> None:
    """Also where hidden states stand in prompts, or a sequence attends to several inputs."""
    make(tmp_path)
    config = resolve(str(tmp_path), {"device": "cpu", "max_num_batched_tokens": 64})
    model = ModelConfig.load(config.model)
    with cold():
        worker = EncoderWorker(Incarnation("encoder-0", 0), model, config)
    most = {"open": tokens_ahead(model, config.scheduler)}
    assert demand([{**worker.load_report(), **most}]) >= 2


class Life:
    """A pool with bounds, tick by tick. `broken`: names whose starts fail at once."""

    def __init__(self, least: int, most: int, max_restarts: int = 2) -> None:
        self.membership = Membership(Limits(max_restarts=max_restarts))
        self.pools = Pools({"decoder": Bounds(least, most)})
        self.broken: set[str] = set()
        self.starts: list[tuple[float, Incarnation]] = []
        self.now, self.open = 0.0, 0
        self.membership.scale("decoder", least, self.now)
        self.run(0.1)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += 0.1
            for member in list(self.membership.members.values()):
                load = {"open": self.open, "capacity": 4, "heartbeats": self.now}
                self.membership.heartbeat(member.incarnation, load, b"", 0.0, self.now)
            self.membership.tick(self.now)
            self.pools.adjust(self.membership, self.now)
            for action in self.membership.take_actions():
                self.carry_out(action)

    def carry_out(self, action: object) -> None:
        match action:
            case Start(incarnation):
                self.starts.append((self.now, incarnation))
                if incarnation.name in self.broken:
                    self.membership.failed(incarnation, "no memory", self.now)
                else:
                    self.membership.ready(incarnation, "tcp://address", self.now)
            case Kill(incarnation):
                self.membership.gone(incarnation, "killed", self.now)

    @property
    def names(self) -> set[str]:
        return set(self.membership.members)


def test_a_pool_grows_while_requests_wait_and_shrinks_when_they_have_ended() -> None:
    life = Life(least=1, most=3)
    life.open = 6
    life.run(2 * GROW_SECONDS + 1)
    assert life.names == {"decoder-0", "decoder-1", "decoder-2"}
    life.open = 0
    life.run(3 * SHRINK_SECONDS)
    assert life.names == {"decoder-0"}


def test_a_pool_tries_a_worker_that_was_given_up_once_in_ten_minutes() -> None:
    """Not at once, and not under another name: what made its starts fail lasts."""
    life = Life(least=1, most=2)
    life.broken = {f"decoder-{number}" for number in range(1, 99)}
    life.open = 8
    life.run(60.0)
    assert [incarnation for _, incarnation in life.starts[1:]] == [
        Incarnation("decoder-1", epoch) for epoch in (1, 2, 3)
    ]
    life.run(3.5 * WINDOW_SECONDS)
    later = [time for time, _ in life.starts[4:]]
    assert len(later) == 3, "one try each"
    assert all(after - before >= WINDOW_SECONDS for before, after in pairwise(later))
    life.broken = set()
    life.run(WINDOW_SECONDS + 10.0)
    assert life.names == {"decoder-0", "decoder-1"}


def test_a_pool_below_its_least_number_waits_as_long() -> None:
    life = Life(least=2, most=3)
    life.broken = {"decoder-1", "decoder-2"}
    life.membership.gone(Incarnation("decoder-1", 1), "a segmentation fault", life.now)
    life.run(60.0)
    assert life.names == {"decoder-0"}
    assert len(life.starts) == 4
    life.broken = set()
    life.run(WINDOW_SECONDS)
    assert life.names == {"decoder-0", "decoder-1"}
