"""An encoder replica of several ranks: threads, which get batches as frames."""

import queue
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from message_samples import there_and_back
from thread_group import make_ranks

from antiphon.actors.messages import RankBatch
from antiphon.config.options import resolve
from antiphon.config.parallel import Parallel
from antiphon.encoder.follower import EncoderFollower
from antiphon.encoder.rank_commands import EncodeBatch
from antiphon.encoder.runner import EncoderRunner
from antiphon.families.checkpoint import ModelConfig
from antiphon.runtime.ranks import Ranks

Inbox = queue.SimpleQueue[EncodeBatch | None]


@contextmanager
def ranked_encoder(
    folder: Path,
    parallel: Parallel,
    prepare: Callable[[EncoderRunner], None] = lambda runner: None,
    **options: Any,
) -> Iterator[EncoderRunner]:
    """The leader's runner. `prepare` is called on each rank's runner, one after the other."""
    config = resolve(str(folder), {"device": "cpu", **options})
    model = ModelConfig.load(config.model)
    every = make_ranks(parallel)
    inboxes: dict[int, Inbox] = {r.rank: Inbox() for r in every if not r.is_leader}
    prepared: Future[None] = Future()

    def follow(ranks: Ranks, loaded: "Future[EncoderRunner]") -> None:
        try:
            follower = EncoderFollower(model, config, ranks)
            loaded.set_result(follower.runner)
            prepared.result(60)
            while (command := inboxes[ranks.rank].get()) is not None:
                follower.handle(command)
        except BaseException as error:
            ranks.close()  # as the end of its process would do
            if not loaded.done():
                loaded.set_exception(error)
            raise

    def send(command: EncodeBatch) -> None:
        for inbox in inboxes.values():
            message = there_and_back(RankBatch(0, 0, command))
            assert isinstance(message, RankBatch)
            inbox.put(message.command)

    with ThreadPoolExecutor(max(1, len(inboxes))) as pool:
        loads: list[Future[EncoderRunner]] = [Future() for _ in inboxes]
        followers = [r for r in every if not r.is_leader]
        running = [pool.submit(follow, r, f) for r, f in zip(followers, loads, strict=True)]
        try:
            leader = EncoderRunner(model, config, every[parallel.leader], send)
            for runner in [*(load.result(60) for load in loads), leader]:
                prepare(runner)
            prepared.set_result(None)
            yield leader
        except BaseException:
            every[parallel.leader].close()
            raise
        finally:
            if not prepared.done():
                prepared.set_result(None)
            for inbox in inboxes.values():
                inbox.put(None)
        for thread in running:
            thread.result()
