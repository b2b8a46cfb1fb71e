"""`RankedEngine` whose every rank has an encoder beside its part of the decoder."""

import queue
import threading

from message_samples import there_and_back
from ranked_engine import FollowerThread, RankedEngine, guarded

from antiphon.actors.messages import RankBatch
from antiphon.config.decoding_rules import TimestampRules
from antiphon.config.options import EngineConfig
from antiphon.decoder.follower import DecoderFollower
from antiphon.decoder.replica import DecoderReplica
from antiphon.encoder.follower import EncoderFollower
from antiphon.encoder.rank_commands import EncodeBatch
from antiphon.encoder.runner import EncoderRunner
from antiphon.kv.batch_share import OwnShare, SharedBatch, Shelf
from antiphon.runtime.ranks import Ranks

WAIT_SECONDS = 20.0


class EncoderThread:
    """The encoder of one rank other than the leader. `begin`: cleared, it does not take up work."""

    def __init__(self, follower: EncoderFollower) -> None:
        self.follower = follower
        self.begin = threading.Event()
        self.begin.set()
        self.error: Exception | None = None
        self._inbox: queue.SimpleQueue[EncodeBatch | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def send(self, command: EncodeBatch) -> None:
        message = there_and_back(RankBatch(0, 0, command))
        assert isinstance(message, RankBatch)
        self._inbox.put(message.command)

    def _run(self) -> None:
        try:
            while (command := self._inbox.get()) is not None:
                self.begin.wait(WAIT_SECONDS)
                self.follower.handle(command)
        except Exception as error:
            self.error = error

    def close(self) -> None:
        self._inbox.put(None)
        self.thread.join(WAIT_SECONDS)
        assert not self.thread.is_alive()


class ColocatedRanks(RankedEngine):
    """`encoders`: of all ranks but the leader. `shares`: tokens of each batch that each rank
    has encoded, the leader first."""

    encoders: list[EncoderThread]

    def _make_replica(
        self, config: EngineConfig, timestamps: TimestampRules | None
    ) -> DecoderReplica:
        self.encoders, self.shares = [], list[tuple[int, ...]]()
        return super()._make_replica(config, timestamps)

    def _lead(self, ranks: Ranks, timestamps: TimestampRules | None) -> DecoderReplica:
        beside = Ranks.beside(ranks)
        self.encoder = EncoderRunner(self.model, self._config, beside, self._send_batch)
        return super()._lead(ranks, timestamps)

    def _follow(self, ranks: Ranks, timestamps: TimestampRules | None) -> FollowerThread:
        shelf = Shelf(WAIT_SECONDS)
        encoder = EncoderFollower(self.model, self._config, Ranks.beside(ranks), shelf)
        self.encoders.append(EncoderThread(encoder))
        return FollowerThread(
            lambda: guarded(
                ranks,
                lambda: DecoderFollower(self.model, self._config, timestamps, ranks, shelf),
            )
        )

    def _send_batch(self, command: EncodeBatch) -> None:
        for encoder in self.encoders:
            encoder.send(command)

    def run_encoders(self) -> None:
        jobs, self.unencoded = self.unencoded, []
        if not jobs:
            return
        assert self.encoder is not None
        encoded = self.encoder.encode([media.payload for media in jobs])
        own = OwnShare(len(self.shares), encoded.hidden)
        self.shares.append(encoded.shares)
        keys = tuple(media.key for media in jobs)
        self.replica.receive_hidden(SharedBatch(keys, tuple(encoded.lengths), encoded.shares, own))

    def _end(self) -> tuple[list[Exception], list[Exception]]:
        causes, consequences = super()._end()
        for encoder in self.encoders:
            encoder.close()
        errors = [encoder.error for encoder in self.encoders if encoder.error is not None]
        return [*errors, *causes], consequences
