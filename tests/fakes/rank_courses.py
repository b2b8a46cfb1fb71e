"""What each process of a replica does in tests with real groups. They run by `RankProcesses`.

The leader is a `PlainEngine`; its commands go to the others over real sockets.
"""

import os
import pickle
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from plain_engine import PlainEngine
from rank_scenarios import check_course, play
from torch._C._distributed_c10d import TCPStore

from antiphon.actors.address import Host
from antiphon.actors.rank_channel import DecoderWire, RankInbox, RankSenders
from antiphon.benchmarks.rank_processes import HOST, Seat
from antiphon.config.decoding_rules import TimestampRules
from antiphon.config.options import EngineConfig, resolve
from antiphon.config.sampling import SamplingParams
from antiphon.decoder.follower import DecoderFollower
from antiphon.decoder.rank_commands import Launch
from antiphon.decoder.replica import DecoderReplica
from antiphon.encoder.runner import EncoderRunner
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.processor import InputProcessor
from antiphon.runtime.joining import join, limit_waiting
from antiphon.runtime.ranks import Ranks
from antiphon.scheduler.request import Finished

HERE = Host(HOST, "this node")
IDLE_SECONDS = 0.02
Options = dict[str, Any]


def full_precision() -> None:
    """Float32 stays float32 on a GPU."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def memory(device: torch.device) -> int:
    """Bytes in use: on a GPU by all its processes, NCCL's memory included; else by this process.
    Does not wait for the device: another rank may wait for this one."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info()
        return total - free
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


class Meeting:
    """How the ranks of a run find each other's inboxes, and know that it is over."""

    def __init__(self, seat: Seat) -> None:
        self._store = TCPStore(*seat.address, is_master=False)
        self._followers = [
            rank
            for rank in range(seat.spec.parallel.num_ranks)
            if rank != seat.spec.parallel.leader
        ]

    def publish(self, rank: int, inbox: RankInbox) -> None:
        self._store.set(f"inbox-{rank}", pickle.dumps(inbox.address).hex())

    def senders(self) -> RankSenders:
        addresses = [
            pickle.loads(bytes.fromhex(self._store.get(f"inbox-{rank}").decode()))
            for rank in self._followers
        ]
        return RankSenders(addresses, HERE.node, 0, DecoderWire())

    def end(self) -> None:
        self._store.set("end", "")

    @property
    def is_over(self) -> bool:
        return bool(self._store.check(["end"]))


class LeaderEngine(PlainEngine):
    """Its decoder replica has the other ranks in other processes."""

    def __init__(
        self,
        folder: Path,
        seat: Seat,
        ranks: Ranks,
        timestamps: TimestampRules | None = None,
        **options: Any,
    ) -> None:
        self._ranks, self._meeting = ranks, Meeting(seat)
        super().__init__(folder, timestamps, warm=True, **options)  # all ranks do it together

    def _make_replica(
        self, config: EngineConfig, timestamps: TimestampRules | None
    ) -> DecoderReplica:
        self.senders = self._meeting.senders()
        return DecoderReplica(
            self.model, config, self._ask, self._withdraw, timestamps, self._ranks, self.senders
        )

    def close(self) -> None:
        self._meeting.end()
        self.senders.close()


@dataclass
class Follower:
    """A rank that obeys, and its `memory` after that many steps."""

    folder: Path
    seat: Seat
    ranks: Ranks
    options: Options
    timestamps: TimestampRules | None = None

    def __post_init__(self) -> None:
        config = resolve(str(self.folder), self.options)
        meeting, inbox = Meeting(self.seat), RankInbox(HERE, 0, DecoderWire())
        meeting.publish(self.seat.spec.rank, inbox)
        model = ModelConfig.load(config.model)
        self.follower = DecoderFollower(model, config, self.timestamps, self.ranks)
        limit_waiting(self.ranks, self.seat.spec)
        self._meeting, self._inbox = meeting, inbox

    def obey(self, marks: tuple[int, ...] = (), most: int = 10**9) -> list[int]:
        """Until the leader says that it is over, or about `most` steps have run. The memory at each
        of `marks` steps."""
        steps, sizes = 0, list[int]()
        while steps < most:
            commands = list(self._inbox.commands(IDLE_SECONDS))
            for command in commands:
                self.follower.handle(command)
                steps += isinstance(command, Launch)
                if isinstance(command, Launch) and steps in marks:
                    sizes.append(memory(self.follower.runner.device))
            if not commands and self._meeting.is_over:
                break
        self._inbox.close()
        return sizes


def joined(seat: Seat, device: str) -> Ranks:
    full_precision()
    return join(seat.spec, seat.address, HOST, torch.device(device))


@dataclass(frozen=True)
class Course:
    """What a leader saw. `graphs`: whether steps ran in CUDA graphs."""

    ends: dict[int, Finished]
    graphs: bool
    eager_steps: dict[str, int]


def course(seat: Seat, folder: Path, kind: str, options: Options) -> Course | None:
    """`rank_scenarios.play`; None on ranks that follow."""
    ranks = joined(seat, options["device"])
    try:
        if not ranks.is_leader:
            Follower(folder, seat, ranks, options).obey()
            return None
        engine = LeaderEngine(folder, seat, ranks, **options)
        limit_waiting(ranks, seat.spec)
        ends = play(engine, kind)
        check_course(engine)
        engine.close()
        runner = engine.replica.runner
        return Course(ends, runner.graphs is not None, dict(runner.eager_steps))
    finally:
        ranks.close()


def encoded(
    seat: Seat, folder: Path, batches: list[list[np.ndarray]], options: Options
) -> list[np.ndarray]:
    """Hidden states [tokens, hidden] of each batch, as this rank has them. All ranks know the
    batches; nothing is sent but what they compute."""
    ranks = joined(seat, options["device"])
    try:
        config = resolve(str(folder), options)
        model = ModelConfig.load(config.model)
        runner = EncoderRunner(model, config, ranks, lambda command: None)
        limit_waiting(ranks, seat.spec)
        states = [runner.encode(batch).hidden.float().cpu().numpy() for batch in batches]
        ranks.barrier()
        return states
    finally:
        ranks.close()


def transcripts(
    seat: Seat, folder: Path, clips: list[np.ndarray], languages: list[str], options: Options
) -> list[str]:
    """Texts of clips, by a Whisper whose decoder has these ranks; empty on ranks that follow."""
    ranks = joined(seat, options["device"])
    try:
        inputs = InputProcessor(ModelConfig.load(resolve(str(folder), options).model))
        assert inputs.whisper is not None
        rules = inputs.whisper.rules()
        if not ranks.is_leader:
            Follower(folder, seat, ranks, options, rules).obey()
            return []
        engine = LeaderEngine(folder, seat, ranks, rules, **options)
        limit_waiting(ranks, seat.spec)
        params = SamplingParams()
        for clip, language in zip(clips, languages, strict=True):
            prompt = inputs.whisper.prompt(language, "transcribe", False)
            most = inputs.max_tokens(len(prompt), params)
            wanted = inputs.rules(len(prompt), params, False)
            engine.submit(engine.request(clip, prompt, most, wanted, params=params))
        ends = engine.run()
        engine.close()
        return [inputs.decode(ends[number].token_ids).strip() for number in range(len(clips))]
    finally:
        ranks.close()


def many_steps(seat: Seat, folder: Path, options: Options, marks: tuple[int, int]) -> list[int]:
    """Texts come and go until `marks[1]` steps have run: memory at both marks, on each rank."""
    ranks = joined(seat, options["device"])
    try:
        if not ranks.is_leader:
            return Follower(folder, seat, ranks, options).obey(marks)
        engine = LeaderEngine(folder, seat, ranks, **options)
        limit_waiting(ranks, seat.spec)
        sizes = _run_for_long(engine, marks)
        engine.close()
        return sizes
    finally:
        ranks.close()


def _run_for_long(engine: PlainEngine, marks: tuple[int, int]) -> list[int]:
    """Steps are counted by the leader's scheduler."""
    rng, sizes = np.random.default_rng(8), []
    scheduler, device = engine.replica.scheduler, engine.replica.runner.device
    for mark in marks:
        while scheduler.counters["steps"] < mark:
            while len(scheduler.requests) < 6:
                text = rng.integers(3, 60, int(rng.integers(2, 8))).astype(np.int32)
                length = int(rng.integers(3, 14))
                params = SamplingParams(temperature=float(rng.integers(0, 2)), seed=1)
                engine.submit(engine.request(text, [2], length, params=params))
            engine.step()
            engine.finished.clear()
            engine.deltas.clear()
        sizes.append(memory(device))
    engine.run()
    return sizes


def loses_a_rank(seat: Seat, folder: Path, options: Options, dies: bool) -> tuple[str, float]:
    """A rank that follows dies, or hangs, in the middle: what the leader raises, and how many
    seconds after its first step."""
    ranks = joined(seat, options["device"])
    if not ranks.is_leader:
        follower = Follower(folder, seat, ranks, options)
        follower.obey(most=20)
        if dies:
            os._exit(1)
        time.sleep(2 * seat.spec.timeout)
        os._exit(2)  # what it would say now is of no interest
    engine = LeaderEngine(folder, seat, ranks, **options)
    limit_waiting(ranks, seat.spec)
    began = time.monotonic()
    try:
        _run_for_long(engine, (100_000, 100_001))
    except Exception as error:
        return type(error).__name__, time.monotonic() - began
    raise AssertionError("the leader went on without a rank")
