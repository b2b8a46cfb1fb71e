"""The worker of a leader and those of its followers, over real sockets."""

import queue
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from thread_group import make_ranks
from tiny_decoders import make_decoder

from antiphon.actors.address import Host
from antiphon.actors.channel import Sender
from antiphon.actors.decoder_worker import DecoderWorker
from antiphon.actors.follower_worker import FollowerWorker
from antiphon.actors.frames import PREFIX
from antiphon.actors.links import Links
from antiphon.actors.messages import Output, Submit
from antiphon.actors.rank_channel import DecoderWire, RankSenders
from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.options import EngineConfig, resolve
from antiphon.config.parallel import Parallel
from antiphon.config.sampling import SamplingParams
from antiphon.decoder.follower import DecoderFollower
from antiphon.decoder.rank_commands import DropStates
from antiphon.families.checkpoint import ModelConfig
from antiphon.runtime.idle_memory import REST_SECONDS, IdleMemory
from antiphon.runtime.ranks import RankError
from antiphon.scheduler.request import Incarnation, Request, RequestId, RequestState

HERE = Host("127.0.0.1", "this node")
OWN = Incarnation("decoder-0", 4)
WAIT_SECONDS = 20.0


class Frontend:
    """A peer in this process that keeps what it is sent."""

    in_this_process = True

    def __init__(self) -> None:
        self.outputs: queue.Queue[Output] = queue.Queue()

    def send(self, message: Any) -> None:
        self.outputs.put(message)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelConfig, EngineConfig]:
    folder: Path = tmp_path_factory.mktemp("llama")
    make_decoder("llama", folder)
    small = {"device": "cpu", "max_num_seqs": 4, "max_model_len": 32, "kv_page_size": 4}
    config = resolve(str(folder), small)
    return ModelConfig.load(config.model), config


Workers = tuple[DecoderWorker, list[FollowerWorker]]


@pytest.fixture
def workers(loaded: tuple[ModelConfig, EngineConfig]) -> Iterator[Workers]:
    """Loaded, not yet connected."""
    every = make_ranks(Parallel(3))
    with ThreadPoolExecutor(3) as pool:
        leader = pool.submit(DecoderWorker, OWN, *loaded, None, every[0])
        followers = [pool.submit(DecoderFollower, *loaded, None, one) for one in every[1:]]
    made = leader.result(), [FollowerWorker(one.result(), DecoderWire()) for one in followers]
    yield made
    for ranks in every:
        ranks.close()
    for worker in (made[0], *made[1]):
        worker.close()
        assert not worker.alive


def request(number: int) -> Request:
    prompt = np.array([0, 5 + number, 9], np.int64)
    return Request(RequestId("front", number), prompt, (), SamplingParams(), DecodingRules(), 6, 0)


def test_a_replica_of_three_workers_serves(workers: Workers) -> None:
    leader, followers = workers
    front = Frontend()
    addresses = [follower.listen(HERE, OWN.epoch) for follower in followers]
    leader.connect(Links(HERE.node, {"front": front}), addresses)
    for follower in followers:  # commands wait for those that start later
        follower.start()
    leader.send(Submit([request(number) for number in range(5)]))
    ends = {}
    while len(ends) < 5:
        output = front.outputs.get(timeout=WAIT_SECONDS).output
        ends.update({end.number: end for end in output.finished})
    assert {end.state for end in ends.values()} == {RequestState.DONE}
    wanted = leader.replica.runner.slots.tokens
    deadline = time.monotonic() + WAIT_SECONDS
    for follower in followers:
        while not follower.follower.runner.slots.tokens.equal(wanted):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert follower.alive


def test_a_rank_gives_free_memory_back_in_each_rest(workers: Workers) -> None:
    leader, followers = workers
    front, gave_back = Frontend(), threading.Event()
    clock = lambda: 50 * REST_SECONDS * time.monotonic()
    followers[0]._memory = IdleMemory(gave_back.set, clock)
    addresses = [follower.listen(HERE, OWN.epoch) for follower in followers]
    leader.connect(Links(HERE.node, {"front": front}), addresses)
    for follower in followers:
        follower.start()
    for number in range(2):
        assert gave_back.wait(WAIT_SECONDS)
        gave_back.clear()
        leader.send(Submit([request(number)]))
        while not front.outputs.get(timeout=WAIT_SECONDS).output.finished:
            pass
    assert gave_back.wait(WAIT_SECONDS)


def test_a_lost_command_ends_the_rank(workers: Workers) -> None:
    _, (follower, _) = workers
    address = follower.listen(HERE, OWN.epoch)
    follower.start()
    senders = RankSenders([address], HERE.node, OWN.epoch, DecoderWire())
    senders(DropStates(("a",)))
    senders._number += 1
    senders(DropStates(("b",)))
    expect_failure(follower, "command 2 of epoch 4 came where command 1 of epoch 4 was due")
    senders.close()


def test_a_leader_of_another_life_ends_the_rank(workers: Workers) -> None:
    _, (follower, _) = workers
    address = follower.listen(HERE, OWN.epoch)
    follower.start()
    senders = RankSenders([address], HERE.node, OWN.epoch - 1, DecoderWire())
    senders(DropStates(("a",)))
    expect_failure(follower, "command 0 of epoch 3 came where command 0 of epoch 4 was due")
    senders.close()


def test_a_command_that_cannot_be_read_ends_the_rank_with_the_next_one(workers: Workers) -> None:
    _, (follower, _) = workers
    address = follower.listen(HERE, OWN.epoch)
    follower.start()

    class Nonsense:
        def encode(self, message: Any) -> list[bytes]:
            return [PREFIX.pack(address.token, 1) + b"nonsense"]

    senders = RankSenders([address], HERE.node, OWN.epoch, DecoderWire())
    sender = Sender(address, HERE.node, encoder=Nonsense())
    sender.send(None)
    senders._number = 1
    senders(DropStates(("a",)))
    expect_failure(follower, "command 1 of epoch 4 came where command 0 of epoch 4 was due")
    senders.close()
    sender.close()


def expect_failure(worker: FollowerWorker, sentence: str) -> None:
    worker._thread.join(WAIT_SECONDS)
    assert not worker.alive
    assert isinstance(worker.failure, RankError)
    assert sentence in str(worker.failure)
