"""How long a step plan takes from the leader of a replica to the launch on its last rank, in
microseconds: real processes and sockets, no model, no device.

python -m antiphon.benchmarks.plan_channel [sequences] [followers]
"""

import multiprocessing
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import msgspec
import numpy as np

from antiphon.actors.address import Host
from antiphon.actors.frames import AddressEncoder
from antiphon.actors.rank_channel import DecoderWire, RankInbox, RankSenders
from antiphon.actors.rank_wire import RankDecoder, RankEncoder, RankMessage
from antiphon.benchmarks.host_work import CROSS_LEN, PAGE, HostWork
from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.sampling import SamplingParams
from antiphon.decoder.rank_commands import Launch
from antiphon.scheduler.plan import Admission, CrossWrite, StepPlan

HERE = Host("127.0.0.1", "this node")
STEPS, STEP_SECONDS = 300, 0.003  # a decode step takes some milliseconds
WHISPER_RULES = DecodingRules((50257,), tuple(range(1, 90)), (220, 50257))


def plans(sequences: int) -> dict[str, StepPlan]:
    """A step of decodes, in which some sequences grow by a page; and one with a new clip."""
    decodes = HostWork(sequences, 400).last
    pages = np.arange(CROSS_LEN // PAGE + 1, dtype=np.int32)
    admission = Admission(
        0, np.arange(4), 4, 448, 1, SamplingParams(), WHISPER_RULES, pages[:1], pages, CROSS_LEN
    )
    write = CrossWrite("a" * 64, CROSS_LEN, pages)
    return {
        "decodes": decodes,
        "decodes and a new clip": msgspec.structs.replace(
            decodes, admissions=[admission], cross_writes=[write]
        ),
    }


def measure(plan: StepPlan, followers: int) -> dict[str, float]:
    """Medians: `encode`, `send` to all, `decode`; `arrive`: from before the encoding until the last
    rank has the plan, and `slowest`, its 99th percentile."""
    message, encoder, decoder = RankMessage(0, 0, Launch(plan)), RankEncoder(), RankDecoder()
    frames = AddressEncoder(bytes(16)).encode(encoder.encode(message))
    views = [memoryview(bytes(frame)) for frame in frames]
    took = {
        "encode": _median(lambda: encoder.encode(message)),
        "decode": _median(lambda: decoder.decode(views)),
    }
    sent, send, arrived = _send_all(plan, followers)
    delays = (arrived.max(0) - sent) * 1e6
    return {
        **took,
        "send": float(np.median(send)) * 1e6,
        "arrive": float(np.median(delays)),
        "slowest": float(np.percentile(delays, 99)),
    }


def _median(work: Callable[[], object]) -> float:
    times = []
    for _ in range(STEPS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return float(np.median(times)) * 1e6


def _send_all(plan: StepPlan, followers: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """When each plan was sent [steps], how long that took, and when it came [followers, steps]."""
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(followers)]
    processes = [context.Process(target=_follow, args=(far,), daemon=True) for _, far in pipes]
    for process in processes:
        process.start()
    addresses = [near.recv() for near, _ in pipes]
    senders = RankSenders(addresses, HERE.node, 0, DecoderWire())
    sent, took = np.empty(STEPS), np.empty(STEPS)
    for step in range(STEPS):
        time.sleep(STEP_SECONDS)
        sent[step] = time.perf_counter()
        senders(Launch(plan))
        took[step] = time.perf_counter() - sent[step]
    arrived = np.array([near.recv() for near, _ in pipes])
    senders.close()
    for process in processes:
        process.join()
    return sent, took, arrived


def _follow(pipe: Connection) -> None:
    """Another rank's process. Its clock is the leader's."""
    inbox, times = RankInbox(HERE, 0, DecoderWire()), list[float]()
    pipe.send(inbox.address)
    while len(times) < STEPS:
        for _ in inbox.commands(timeout=0.02):
            times.append(time.perf_counter())
    pipe.send(times)
    inbox.close()


def main() -> None:
    sequences = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    followers = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    for name, plan in plans(sequences).items():
        took = measure(plan, followers)
        parts = ", ".join(f"{part} {value:.0f}" for part, value in took.items())
        print(f"{sequences} sequences, {followers} followers, {name}: {parts} us")


if __name__ == "__main__":
    main()
