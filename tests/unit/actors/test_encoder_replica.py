"""The workers of an encoder replica of several ranks, joined by the real channel."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_graphs import load
from thread_group import make_ranks

from antiphon.actors.address import Host
from antiphon.actors.encoder_worker import EncoderWorker
from antiphon.actors.follower_actor import FollowerActor
from antiphon.actors.links import Links
from antiphon.actors.messages import (
    DecoderMessage,
    Encode,
    EncodeFailed,
    EncodeJob,
    Input,
    Members,
)
from antiphon.config.options import resolve
from antiphon.config.parallel import Parallel
from antiphon.families.checkpoint import ModelConfig
from antiphon.kv.handoff import HiddenStates
from antiphon.runtime.ranks import RankError
from antiphon.scheduler.request import Incarnation

HERE = Host("127.0.0.1", "this node")
OWN = Incarnation("encoder-0", 4)
TEXTS = [[5, 6], [7], [8, 9, 10, 11], [12, 13, 14]]


class Decoder:
    in_this_process = False

    def __init__(self) -> None:
        self.states: dict[str, torch.Tensor] = {}
        self.failed: dict[str, str] = {}

    def send(self, message: DecoderMessage) -> None:
        match message:
            case HiddenStates(keys, lengths, packed):
                self.states.update(zip(keys, packed.split(list(lengths)), strict=True))
            case EncodeFailed(key, error):
                self.failed[key] = error


class Replica:
    """A leader and a follower, each with all weights."""

    def __init__(self, folder: Path) -> None:
        config = resolve(str(folder), {"device": "cpu"})
        model = ModelConfig.load(config.model)
        leader, follower = make_ranks(Parallel(2, mode="data"))
        self.actor = FollowerActor()
        self.actor.load("encoder", model, config, None, follower, 20.0)
        self.follower = self.actor.workers["encoder"]
        self.leader = EncoderWorker(OWN, model, config, leader)
        self.decoder = Decoder()
        address = self.follower.listen(HERE, OWN.epoch)
        self.follower.start()
        self.leader.connect(Links(HERE.node, {"decoder-0": self.decoder}), [address])

    def send(self, *texts: list[int]) -> None:
        for ids in texts:
            self.leader.send(Input("frontend", str(ids), np.array(ids, np.int32)))
        jobs = [EncodeJob(str(ids), len(ids), "decoder-0", ("frontend",)) for ids in texts]
        self.leader.send(Encode(jobs))

    def close(self) -> None:
        self.leader.runner.ranks.close()  # it may wait for a rank that is gone
        for loop in (self.leader, self.follower):
            loop.close()


@pytest.fixture
def replica(checkpoints: Any) -> Any:
    replica = Replica(checkpoints("t5")[0])
    yield replica
    replica.close()


def wait(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


def test_decoders_get_the_states_of_one_rank(replica: Replica, checkpoints: Any) -> None:
    _, alone = load(checkpoints("t5")[0])
    replica.actor.receive(Members([]))  # a process hears of members whatever its rank
    replica.send(*TEXTS, [10**6])
    wait(lambda: len(replica.decoder.states) + len(replica.decoder.failed) == len(TEXTS) + 1)
    assert "token ids must be within" in replica.decoder.failed["[1000000]"]
    for ids in TEXTS:
        expected = alone.encode([np.array(ids, np.int32)]).hidden
        torch.testing.assert_close(replica.decoder.states[str(ids)], expected, atol=1e-4, rtol=0)
    assert replica.leader.alive
    assert replica.follower.alive


def test_the_replica_ends_as_a_whole(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(replica.follower.follower.runner, "_compute", broken)
    replica.send(*TEXTS)
    wait(lambda: not replica.follower.alive)
    assert isinstance(replica.follower.failure, RankError)
    replica.follower.follower.runner.ranks.close()  # as the end of its process does
    assert not replica.decoder.states


def test_a_lost_batch_ends_the_rank(replica: Replica) -> None:
    assert replica.leader._followers is not None
    replica.leader._followers._number = 1
    replica.send(*TEXTS)
    wait(lambda: not replica.follower.alive)
    assert "command 1 of epoch 4 came where command 0 of epoch 4 was due" in str(
        replica.follower.failure
    )
