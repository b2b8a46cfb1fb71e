"""The decoder worker: a loop over `DecoderReplica` that messages keep informed."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, assert_never

import torch

from antiphon.actors.address import Address
from antiphon.actors.arena_places import ArenaPlaces, export_arena
from antiphon.actors.encode_asks import EncodeAsks
from antiphon.actors.frames import MessageError
from antiphon.actors.links import Links
from antiphon.actors.messages import (
    Attach,
    Cancel,
    DecoderMessage,
    Detach,
    EncodeFailed,
    LinkMessage,
    Members,
    NotMapped,
    NotOpen,
    Output,
    StatesWritten,
    StillOpen,
    Stop,
    Submit,
    Unreadable,
    Withdrawn,
)
from antiphon.actors.news import News
from antiphon.actors.rank_channel import DecoderWire, RankSenders
from antiphon.actors.worker import BEGIN_SECONDS, IDLE_SECONDS, POLL_SECONDS, Worker
from antiphon.config.decoding_rules import TimestampRules
from antiphon.config.errors import describe
from antiphon.config.options import EngineConfig
from antiphon.decoder.rank_commands import RankCommand
from antiphon.decoder.replica import DecoderReplica
from antiphon.families.checkpoint import ModelConfig
from antiphon.kv.batch_share import SharedBatch
from antiphon.kv.handoff import HiddenStates
from antiphon.kv.transports.mapped import ArenaExport
from antiphon.runtime.ranks import RankError, Ranks
from antiphon.scheduler.encode_work import EncodeCommand, Withdrawal
from antiphon.scheduler.outputs import StepOutput, failed_output
from antiphon.scheduler.request import Incarnation, Request, RequestId, RequestState
from antiphon.scheduler.sketch import sketch

logger = logging.getLogger(__name__)


class DecoderWorker(Worker[DecoderMessage | SharedBatch]):
    """One decoder replica of the engine, in a thread."""

    def __init__(
        self,
        incarnation: Incarnation,
        model: ModelConfig,
        config: EngineConfig,
        timestamps: TimestampRules | None,
        ranks: Ranks | None = None,
    ) -> None:
        """Loads the decoder half and allocates its pages. Raises what `DecoderRunner` raises.
        `ranks`: of a replica of several, which this one leads."""
        super().__init__()
        self.incarnation, self._transport = incarnation, config.workers.state_transport
        self._asked: dict[str, list[int]] = {}  # numbers of requests, by frontend
        self.news = News()
        self._followers: RankSenders | None = None
        self.replica = DecoderReplica(
            model, config, self._encode, self._withdraw, timestamps, ranks, self._command
        )
        self._set_links(Links(), None)

    @property
    def info(self) -> dict[str, Any]:
        """What was chosen for this half."""
        runner = self.replica.runner
        return {
            "attention": runner.causal.name,
            "device": str(runner.device),
            "dtype": str(runner.target.dtype),
            "kv_pages": runner.pool.num_pages,
            "hidden_state_pages": runner.pool.num_state_pages,
            "graphs": None if runner.graphs is None else runner.graphs.report,
        }

    def stats(self) -> dict[str, int]:
        """Counters since the start, and the present load. From any thread."""
        scheduler = self.replica.scheduler
        load = scheduler.load()
        for name in ("tokens", "slots", "senders", "trial"):  # no counters: they have no sum
            del load[name]
        memory = {**scheduler.pages.counters, **self._places.counters}
        return {**scheduler.counters, **self.replica.runner.eager_steps, **load, **memory}

    def load_report(self) -> dict[str, float]:
        """As `WorkerActor.load_report`, in sequences."""
        scheduler = self.replica.scheduler
        self.news.told(request_id.frontend for request_id in list(scheduler.requests))
        load = scheduler.load()
        return {**load, "open": load["slots"], "capacity": scheduler.limits.max_num_seqs}

    def held(self) -> bytes:
        """As `WorkerActor.held`: of the keys in the cross-attention cache."""
        return sketch(self.replica.scheduler.pages.cross.keys)

    def connect(self, links: Links, followers: Sequence[Address] = ()) -> None:
        """Starts the loop. `links`: encoders by the names in requests, and frontends. `followers`:
        where the other ranks of the replica receive."""
        ranks = self.replica.runner.ranks
        assert len(followers) == ranks.parallel.num_ranks - 1
        arena = self.replica.runner.arena
        self._set_links(links, export_arena(arena, links, followers, self._transport))
        if followers:
            epoch = self.incarnation.epoch
            self._followers = RankSenders(followers, links.node, epoch, DecoderWire())
        if encoders := self._encoders_here:
            self.replica.scheduler.set_encoders(dict.fromkeys(encoders, self.incarnation.epoch))
        self.start()

    @property
    def frontends(self) -> list[str]:
        """Those that have attached, by name. From any thread."""
        return list(self._links.frontends)

    def _set_links(self, links: Links, arena: ArenaExport | None) -> None:
        self._links = links
        self._places = ArenaPlaces(self.replica.runner.arena.space, arena)
        name, scheduler = self.incarnation.name, self.replica.scheduler
        self._asks = EncodeAsks(name, scheduler, links, self._places, self.send)

    def _encode(self, work: list[EncodeCommand]) -> None:
        self._asks.ask(work)

    def _withdraw(self, withdrawals: list[Withdrawal]) -> None:
        self._asks.withdraw(withdrawals)

    @property
    def _encoders_here(self) -> list[str]:
        """Names of encoders in this process. If there are any, others are not asked: hidden states
        would leave the device."""
        return self._links.here("encoder")

    def _command(self, command: RankCommand) -> None:
        assert self._followers is not None
        self._followers(command)

    # ------------------------------------------------------------------ loop

    def loop(self) -> None:
        try:
            super().loop()
        finally:
            if self._followers is not None:
                self._followers.close()

    def handle(self, message: DecoderMessage | SharedBatch) -> None:
        scheduler = self.replica.scheduler
        match message:
            case Submit(requests):
                for request in requests:
                    self._add(request)
                self.news.note_senders(request.id.frontend for request in requests)
            case Cancel(request_id):
                scheduler.cancel(request_id)
            case Stop(request_id):
                scheduler.stop(request_id)
            case StillOpen(frontend, numbers):
                self._asked[frontend] = numbers
            case HiddenStates() | SharedBatch():
                self.replica.receive_hidden(message)
            case StatesWritten():
                self.replica.incoming.adopt(self._places.written(message))
            case NotMapped():
                self._places.not_mapped(message)
            case EncodeFailed(key, error, input_gone, sender, ticket, arena):
                self._places.answered([key], [ticket], sender, arena)
                if input_gone:
                    scheduler.input_gone(key, error, sender)
                else:
                    scheduler.encode_failed(key, error, sender)
            case Withdrawn(keys, sender, tickets, arena):
                self._places.answered(keys, tickets, sender, arena)
                scheduler.withdrawn(keys, sender)
            case Unreadable(request_id, error):
                self._send(failed_output(request_id, error))
            case Attach() | Detach() | Members():
                self._links.handle(message)
                self._note(message)
            case _:
                assert_never(message)

    def _note(self, message: LinkMessage) -> None:
        """What the scheduler must know of frontends and encoders."""
        scheduler = self.replica.scheduler
        match message:
            case Detach(frontend):
                scheduler.detach(frontend)
            case Members(members) if not self._encoders_here:
                self._places.note(members)
                encoders = [member.worker for member in members if member.role == "encoder"]
                if (epochs := scheduler.encodes.pool.report(encoders)) is not None:
                    scheduler.set_encoders(epochs)

    def _add(self, request: Request) -> None:
        try:
            self.replica.scheduler.add(request)
        except Exception as error:  # unforeseen: it must not end the loop that serves everybody
            logger.exception("request %s was not accepted", request.id)
            self._send(failed_output(request.id, f"was not accepted: {describe(error)}"))

    def refuse(self, message: DecoderMessage | SharedBatch, error: Exception) -> None:
        if isinstance(error, RankError):  # no request alone is concerned
            raise error
        match message:
            case Cancel(request_id) | Stop(request_id):
                self._end(request_id, f"failed while it ended: {describe(error)}")
            case HiddenStates(keys) | SharedBatch(keys) | Withdrawn(keys) | StatesWritten(_, keys):
                self._fail_waiting(keys, error)
            case EncodeFailed(key):
                self._fail_waiting((key,), error)

    def _fail_waiting(self, keys: Sequence[str], error: Exception) -> None:
        """Fails the requests that wait for the hidden states of `keys`."""
        sentence = f"its hidden states could not be taken in: {describe(error)}"
        for request in self.replica.scheduler.encodes.waiting(keys):
            self._end(request.id, sentence)

    def _end(self, request_id: RequestId, error: str) -> None:
        """Fails a request, whatever is wrong with it."""
        scheduler = self.replica.scheduler
        if (request := scheduler.requests.get(request_id)) is None:
            return
        try:
            scheduler.finish(request, RequestState.FAILED, error=error)
        except Exception:
            logger.exception("request %s could not be ended properly", request_id)
            scheduler.requests.pop(request_id, None)
            self._send(failed_output(request_id, error))

    def run_once(self) -> None:
        self._asks.ask_overdue()
        for output in self.replica.step():
            self._send(output)
        self.news.note_trial(self.replica.scheduler.intake.trials.mark)
        if self._asked:  # now that all ends are sent
            self._answer_frontends()

    def _answer_frontends(self) -> None:
        asked, self._asked = self._asked, {}
        scheduler = self.replica.scheduler
        known = scheduler.requests.keys() | scheduler.outputs.held.keys()
        for frontend, numbers in asked.items():
            lost = [number for number in numbers if RequestId(frontend, number) not in known]
            if lost:
                self._links.send(frontend, NotOpen(lost, self.incarnation))

    def _send(self, output: StepOutput) -> None:
        output.sender = self.incarnation
        try:
            self._links.send(output.frontend, Output(output))
        except MessageError as error:
            self._send_singly(output, error)

    def _send_singly(self, output: StepOutput, error: MessageError) -> None:
        """One message for each end, and one for the tokens: what cannot travel harms no other."""
        logger.error("an output cannot travel in one message", exc_info=error)
        tokens = replace(output, finished=[])
        parts = [tokens, *(StepOutput(output.frontend, finished=[end]) for end in output.finished)]
        for part in parts:
            part.sender = self.incarnation
            try:
                self._links.send(part.frontend, Output(part))
            except MessageError as fault:
                for end in part.finished:
                    request_id = RequestId(part.frontend, end.number)
                    error_text = f"its result cannot travel: {describe(fault)}"
                    failed = failed_output(request_id, error_text)
                    failed.sender = self.incarnation
                    self._links.send(part.frontend, Output(failed))

    def _probe(self) -> None:
        self.replica.runner.probe()

    @property
    def device(self) -> torch.device:
        return self.replica.runner.device

    @property
    def poll_timeout(self) -> float:
        if self.replica.idle:
            return IDLE_SECONDS
        if self.replica.rests:
            return POLL_SECONDS
        if self.replica.only_asks and self._encoders_here:
            return POLL_SECONDS if self.replica.incoming else BEGIN_SECONDS
        return 0.0
