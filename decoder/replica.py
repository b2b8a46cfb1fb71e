"""One decoder replica: schedule, run, postprocess. A plain object, driven by a Ray
actor, a test or a benchmark.

Up to `num_scheduler_steps` steps are launched before the results of earlier ones are
known, so a GPU has its next work before the host knows the last tokens. (A CPU computes
while it launches: there the newest step counts as one of them.) A sequence that has
stopped may therefore run a few steps too many. The results of those rows are dropped.
What they write into its pages comes before anything that the pages' next owner writes,
on the same stream.

Each stage of a pipeline works on another lane of sequences, so the steps in flight
multiply by the number of stages. On CPUs a launch is the computation itself: there the
leader, a rank of the last stage, first sends the next lane's step to the other ranks,
and then computes its own part of the oldest step.
"""

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import wait
from dataclasses import dataclass

from antiphon.config.decoding_rules import TimestampRules
from antiphon.config.errors import describe
from antiphon.config.options import EngineConfig
from antiphon.decoder.aligned_ends import AlignedEnds
from antiphon.decoder.incoming_states import IncomingStates
from antiphon.decoder.launched_step import LaunchedStep
from antiphon.decoder.other_ranks import OtherRanks
from antiphon.decoder.rank_commands import Followers, Launch, no_followers
from antiphon.decoder.room import tokens_ahead
from antiphon.decoder.runner import DecoderRunner
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.detokenizer import LateTexts
from antiphon.kv.batch_share import SharedBatch
from antiphon.kv.handoff import HiddenStates
from antiphon.kv.pages import PagePool
from antiphon.runtime.device import Target
from antiphon.runtime.ranks import RankError, Ranks
from antiphon.scheduler.drafts import DraftLimits
from antiphon.scheduler.encode_work import EncodeCommand, Withdrawal
from antiphon.scheduler.limits import Limits
from antiphon.scheduler.outputs import StepOutput
from antiphon.scheduler.plan import StepPlan
from antiphon.scheduler.prompt_lookup import LookupSizes
from antiphon.scheduler.scheduler import Scheduler

logger = logging.getLogger(__name__)

AskEncoders = Callable[[list[EncodeCommand]], None]
WithdrawEncodes = Callable[[list[Withdrawal]], None]


@dataclass
class StepInFlight:
    plan: StepPlan
    launched: LaunchedStep | None = None  # None: other ranks know of it, and this one has not begun


class DecoderReplica:
    """The scheduler and the runner of one decoder, joined by `step`.

    `ask_encoders` and `withdraw_encodes` must not block. Each piece of encoder work is
    answered, in any order: by `receive_hidden` or `incoming.adopt`, by the scheduler's
    `encode_failed`, or by its `withdrawn` if it was withdrawn in time.

    In a replica of several ranks this is the leader, and each other rank is a
    `DecoderFollower`. `followers` sends every command that changes the state of devices
    to all of them, in order, without waiting. What fails on one rank may have succeeded
    on another, so an error of the device ends the replica.
    """

    def __init__(
        self,
        model: ModelConfig,
        config: EngineConfig,
        ask_encoders: AskEncoders,
        withdraw_encodes: WithdrawEncodes,
        timestamps: TimestampRules | None = None,
        ranks: Ranks | None = None,
        followers: Followers = no_followers,
    ) -> None:
        """Loads the decoder. Raises what `DecoderRunner` raises."""
        texts = LateTexts(model)
        on_gpu = Target.resolve(config.model, model.raw, model.family).device.type == "cuda"
        if on_gpu:
            texts.begin()  # beside the weights: a loop that stands still later counts as hanging
        self.runner = DecoderRunner(model, config, timestamps, ranks)
        if on_gpu:
            wait([texts.begin()])
        self._others = OtherRanks(self.runner, followers)
        # Number of the plan that was launched last; and slots whose settings the device
        # refused, by plan, which other ranks have not been told of.
        self._launched, self._refused = 0, dict[int, tuple[int, ...]]()
        lanes = self.runner.ranks.parallel.pipeline
        limits = _limits(model, config, self.runner, lanes)
        pool = self.runner.pool
        cross = None if pool.states is None else PagePool(pool.states.num_pages)
        pages = PagePool(pool.num_pages, cross)
        self.scheduler = Scheduler(limits, pages, new_text=texts)
        self._ask_encoders, self._withdraw_encodes = ask_encoders, withdraw_encodes
        # Steps whose results may be missing while the next one is planned.
        steps = config.scheduler.num_scheduler_steps * lanes
        self._look_ahead = steps - (not self.runner.overlap)
        self._lane = lanes - 1  # of the last plan
        self._launches_late = lanes > 1 and not self.runner.overlap
        self._in_flight: deque[StepInFlight] = deque()  # oldest first
        self.incoming = IncomingStates(self.runner, self.scheduler, self._others, self._catch_up)
        outputs = self.scheduler.outputs
        self.alignments = AlignedEnds(self.runner, outputs, self._others, self._catch_up)

    # ------------------------------------------------------------------ one step

    def step(self) -> list[StepOutput]:
        """Schedules and launches one step, and takes in the results of the oldest ones.

        Never waits for an encoder. No outputs mean that nothing happened. Raises only
        what the device raises when it is of no more use.
        """
        self.alignments.begin()  # of requests that were stopped meanwhile
        self.incoming.accept(self.rests)  # the requests of computed states become ready
        self._request_encodes()  # for waiting requests, within the budget
        plan = self._next_plan()  # which sequences run now
        if plan is not None:
            self._begin(plan)  # it may be the last to read hidden states that are dropped now
        self._discard_unwanted()  # requests that ended meanwhile may have been the last to wait
        if plan is not None:
            while self._is_ahead(plan.lane):
                self._settle(self._in_flight.popleft())
        elif self._in_flight:  # maybe what the next plan waits for
            self._settle(self._in_flight.popleft())
        self.alignments.collect(wait=not self._in_flight)
        return self.scheduler.outputs.pop()  # new tokens, and requests that ended

    def _next_plan(self) -> StepPlan | None:
        """Of the lane whose turn it is, or of the next one with something to run."""
        num_lanes = self.scheduler.limits.num_lanes
        for _ in range(num_lanes):
            self._lane = (self._lane + 1) % num_lanes
            if (plan := self.scheduler.step(self._lane)) is not None:
                return plan
        return None

    def _is_ahead(self, lane: int) -> bool:
        """True if the oldest result must come before anything else is planned."""
        if len(self._in_flight) > max(0, self._look_ahead):
            return True
        num_lanes = self.scheduler.limits.num_lanes
        if num_lanes == 1:
            return False
        of_lane = sum(step.plan.lane == lane for step in self._in_flight)
        return of_lane > -(-self._look_ahead // num_lanes)

    def _begin(self, plan: StepPlan) -> None:
        """Puts a step in flight. If it cannot be launched its requests fail, and the
        others go on."""
        if self._others.exist:
            self._others.tell(Launch(plan, self._launched, tuple(self._refused.items())))
            self._refused = {}
        step = StepInFlight(plan)
        if self._launches_late or self._launch(step):
            self._in_flight.append(step)

    def _launch(self, step: StepInFlight) -> bool:
        """False, and its requests failed, if that cannot be."""
        space = self.runner.arena.space
        space.launched = step.plan.number
        for part in step.plan.embeddings:  # whichever stage reads them
            space.use(part.key)
        try:
            step.launched = self.runner.launch(step.plan)
        except Exception as error:  # whatever the model or the device raised
            self._fail(step.plan, error)
            return False
        self._launched = step.plan.number
        if refused := step.launched.refused:
            self._note_refused(step.plan, refused)
        return True

    def _note_refused(self, plan: StepPlan, refused: dict[int, Exception]) -> None:
        """Fails requests whose settings the device refused; notes them for other
        ranks."""
        if self._others.exist:
            self._refused[plan.number] = tuple(refused)
        for slot, refusal in refused.items():
            # With other steps in flight its request may have ended.
            if self.scheduler.batch.is_live(plan)[plan.slots == slot].any():
                self.scheduler.fail_slot(slot, describe(refusal))

    def _catch_up(self) -> None:
        """Launches what other ranks were told to: what follows may wait for them."""
        for step in self._in_flight:
            if step.launched is None:
                self._launch(step)

    def _settle(self, step: StepInFlight) -> None:
        """Waits for a step, and takes in its tokens."""
        if step.launched is None and not self._launch(step):
            return
        assert step.launched is not None
        try:
            result = step.launched.result()
        except Exception as error:
            self._fail(step.plan, error)
        else:
            self.scheduler.postprocess(step.plan, result)
            self.alignments.begin()
        self.runner.arena.space.settle(step.plan.number)

    def _fail(self, plan: StepPlan, error: Exception) -> None:
        """Fails the requests of a step. Raises the device's error if the device is of
        no more use, and RankError where other ranks may have gone on."""
        logger.exception("a decoder step of %d sequences failed", len(plan.slots))
        if self._others.exist:
            raise RankError(f"step {plan.number} failed: {describe(error)}") from error
        self.scheduler.fail_step(plan, describe(error))
        self.runner.probe()

    # ------------------------------------------------------------------ encoder work

    def _request_encodes(self) -> None:
        self.incoming.make_room()
        if commands := self.scheduler.next_encodes():
            self.incoming.make_room()  # for what is asked for now
            self._ask_encoders(commands)

    def _discard_unwanted(self) -> None:
        """Drops hidden states and withdraws encoder work that no request waits for."""
        self.incoming.make_room()
        if withdrawals := self.scheduler.encodes.pop_withdrawals():
            self._withdraw_encodes(withdrawals)

    def receive_hidden(self, states: HiddenStates | SharedBatch) -> None:
        """Hidden states from an encoder, which may still be computing them, or word
        that the ranks of this replica have encoded some."""
        self.incoming.receive(states)
        self.incoming.accept(self.rests)

    # ------------------------------------------------------------------ state

    @property
    def rests(self) -> bool:
        """True if there is nothing to compute now. Hidden states may be coming."""
        return not self._in_flight and not self.alignments and self.scheduler.idle

    @property
    def only_asks(self) -> bool:
        """True if nothing can be computed before hidden states come. Encoders may be asked for
        more of them."""
        scheduler = self.scheduler
        is_busy = self._in_flight or self.alignments or len(scheduler.batch)
        return not is_busy and not scheduler.intake.num_ready

    @property
    def idle(self) -> bool:
        """True if there is nothing to do until a request or hidden states arrive."""
        return self.rests and not self.incoming


def _limits(
    model: ModelConfig, config: EngineConfig, runner: DecoderRunner, num_lanes: int
) -> Limits:
    options = config.scheduler
    return Limits(
        max_num_seqs=options.max_num_seqs,
        max_batched_tokens=options.max_num_batched_tokens,
        max_len=model.max_decoder_len,
        max_cross_len=model.max_cross_len,
        encode_ahead_tokens=tokens_ahead(model, options),
        max_waiting=options.max_waiting_requests,
        page_size=config.decoder.kv_page_size,
        encode_timeout=options.encode_timeout,
        aging_seconds=options.priority_aging_seconds,
        max_prompt_tokens=runner.prompt_room,
        num_lanes=num_lanes,
        prefix_caching=options.enable_prefix_caching is not False,
        cross_apart=runner.pool.states is not None,
        aligns=runner.aligner is not None,
        drafts=_draft_limits(model, config),
    )


def _draft_limits(model: ModelConfig, config: EngineConfig) -> DraftLimits | None:
    options, lookup = config.speculation, None
    if not options.drafts:
        return None
    if options.speculative_method == "ngram":
        lookup = LookupSizes(options.prompt_lookup_min, options.prompt_lookup_max)
    source = model.max_encoder_len if lookup is not None else 0
    most = options.speculative_disable_by_batch_size
    return DraftLimits(options.num_speculative_tokens, most, source, lookup)
