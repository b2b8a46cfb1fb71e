"""`PlainEngine` whose decoder replica has several ranks: threads, which get commands as frames."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from plain_engine import PlainEngine
from thread_group import make_ranks

from antiphon.actors.frames import AddressEncoder
from antiphon.actors.rank_channel import CommandOrder
from antiphon.actors.rank_wire import RankDecoder, RankEncoder, RankMessage
from antiphon.config.decoding_rules import TimestampRules
from antiphon.config.options import EngineConfig
from antiphon.config.parallel import Parallel
from antiphon.decoder.follower import DecoderFollower
from antiphon.decoder.rank_commands import RankCommand
from antiphon.decoder.replica import DecoderReplica
from antiphon.runtime.ranks import Ranks

TOKEN = bytes(16)
START_SECONDS = 60.0


class FollowerThread:
    """`follower`, once it is loaded, obeys what `send` puts into its inbox."""

    def __init__(self, make: Callable[[], DecoderFollower]) -> None:
        self.inbox: queue.SimpleQueue[list[memoryview] | None] = queue.SimpleQueue()
        self.error: Exception | None = None
        self.loaded: Future[DecoderFollower] = Future()
        self._make = make
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            follower = self._make()
        except Exception as error:
            return self.loaded.set_exception(error)
        self.loaded.set_result(follower)
        decoder, order = RankDecoder(), CommandOrder(epoch=7)
        try:
            while (frames := self.inbox.get()) is not None:
                for message in decoder.decode(frames):
                    follower.handle(order.check(message))
        except Exception as error:
            self.error = error
            follower.runner.ranks.close()  # as the end of its process would do

    def close(self) -> None:
        self.inbox.put(None)
        self.thread.join(START_SECONDS)
        assert not self.thread.is_alive()


class RankedEngine(PlainEngine):
    """`followers` are all ranks but the leader. `commands` are those that were sent."""

    def __init__(
        self,
        folder: Path,
        parallel: Parallel,
        timestamps: TimestampRules | None = None,
        **options: Any,
    ) -> None:
        self.parallel = parallel
        self.commands: list[RankCommand] = []
        self._encoder = RankEncoder()
        super().__init__(folder, timestamps, warm=True, **options)  # all ranks do it together

    def _make_replica(
        self, config: EngineConfig, timestamps: TimestampRules | None
    ) -> DecoderReplica:
        self._config = config
        every = make_ranks(self.parallel)
        (leader,) = (ranks for ranks in every if ranks.is_leader)
        self.followers = [self._follow(ranks, timestamps) for ranks in every if not ranks.is_leader]
        with ThreadPoolExecutor(1) as pool:
            replica = pool.submit(guarded, leader, lambda: self._lead(leader, timestamps))
            for thread in self.followers:
                thread.loaded.result(START_SECONDS)
            return replica.result(START_SECONDS)

    def _follow(self, ranks: Ranks, timestamps: TimestampRules | None) -> FollowerThread:
        config = self._config
        return FollowerThread(
            lambda: guarded(ranks, lambda: DecoderFollower(self.model, config, timestamps, ranks))
        )

    def _lead(self, ranks: Ranks, timestamps: TimestampRules | None) -> DecoderReplica:
        return DecoderReplica(
            self.model, self._config, self._ask, self._withdraw, timestamps, ranks, self._send
        )

    def _send(self, command: RankCommand) -> None:
        number = len(self.commands)
        self.commands.append(command)
        encoded = self._encoder.encode(RankMessage(7, number, command))
        frames = AddressEncoder(TOKEN).encode(encoded)
        for follower in self.followers:
            follower.inbox.put([memoryview(frame) for frame in frames])

    def close(self) -> None:
        """Ends all threads; raises what a follower raised, the cause before its consequences."""
        causes, consequences = self._end()
        for error in [*causes, *consequences]:
            raise error

    def _end(self) -> tuple[list[Exception], list[Exception]]:
        """Ends all threads. What followers raised, and what they raised because others had."""
        for follower in self.followers:
            follower.close()
        errors = [follower.error for follower in self.followers if follower.error is not None]
        consequences = [e for e in errors if isinstance(e, threading.BrokenBarrierError)]
        return [e for e in errors if e not in consequences], consequences

    def __enter__(self) -> "RankedEngine":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            return self.close()
        self.replica.runner.ranks.close()  # or followers would wait for this rank
        for error in self._end()[0]:
            raise error


def guarded(ranks: Ranks, make: Callable[[], Any]) -> Any:
    """What `make` returns; where it raises, the others must not wait for this rank."""
    try:
        return make()
    except BaseException:
        ranks.close()
        raise
