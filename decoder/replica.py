"""One decoder replica: schedule → run → postprocess. A plain object; a Ray actor, a test or a benchmark drives it.

A round schedules once and launches `num_scheduler_steps` steps. On a GPU it looks one round ahead: the next one is launched before
the tokens of this one have reached the host. A sequence that stopped meanwhile runs too often, and those rows' results are dropped;
what they write into its pages comes before anything that the pages' next owner writes, on the same stream.
"""

import logging
from collections import deque
from collections.abc import Callable

from antiphon.config.decoding_rules import TimestampRules
from antiphon.config.options import EngineConfig
from antiphon.decoder.runner import DecoderRunner, LaunchedStep
from antiphon.families.checkpoint import ModelConfig
from antiphon.kv.handoff import HiddenStates
from antiphon.kv.pages import PagePool
from antiphon.scheduler.plan import StepPlan
from antiphon.scheduler.request import Media, StepOutput
from antiphon.scheduler.scheduler import Limits, Scheduler

logger = logging.getLogger(__name__)

Encode = Callable[
    [list[tuple[Media, int]]], None
]  # asks encoder workers for media; each with its worker's index
Withdraw = Callable[
    [list[tuple[str, int]]], None
]  # takes such work back, by key, where it has not begun


class DecoderReplica:
    """`encode` and `withdraw` must not block. What was asked for comes back through `receive_hidden`, the scheduler's
    `encode_failed` or, where it was withdrawn in time, its `withdrawn`; in any order."""

    def __init__(
        self,
        model: ModelConfig,
        config: EngineConfig,
        encode: Encode,
        withdraw: Withdraw,
        timestamps: TimestampRules | None = None,
    ) -> None:
        self.runner = DecoderRunner(model, config, timestamps)
        options = config.scheduler
        limits = Limits(
            max_num_seqs=options.max_num_seqs,
            max_batched_tokens=options.max_num_batched_tokens,
            max_len=model.max_decoder_len,
            max_cross_len=model.max_encoder_len,
            encode_ahead_tokens=options.encode_ahead_tokens
            or options.max_num_seqs * model.max_encoder_len,
            max_waiting=options.max_waiting_requests,
            page_size=config.decoder.kv_page_size,
            encode_timeout=options.encode_timeout,
        )
        self.scheduler = Scheduler(limits, PagePool(self.runner.pool.num_pages))
        self._encode, self._withdraw = encode, withdraw
        self._steps_per_round = options.num_scheduler_steps
        self._under_way: list[tuple[StepPlan, LaunchedStep]] = []
        self._coming: deque[HiddenStates] = deque()

    def receive_hidden(self, states: HiddenStates) -> None:
        """Hidden states from an encoder, maybe still under way."""
        self._coming.append(states)
        self._take_in()

    def _take_in(self) -> None:
        """What is computed. Where nothing runs, also a single input that is not yet: its first step then lies on the device when the
        encoder ends. Running sequences must not wait for an encoder, nor may what comes meanwhile wait for long."""
        while self._coming and (
            self._coming[0].computed or (self.rests and len(self._coming[0].keys) == 1)
        ):
            states = self._coming.popleft()
            try:
                self.runner.handoff.put(states)
            except Exception as error:
                self._refuse(states, error)
            else:
                for key in states.keys:
                    self.scheduler.encoded(key)

    def _refuse(self, states: HiddenStates, error: Exception) -> None:
        logger.exception("hidden states of %d inputs could not be taken in", len(states.keys))
        for key in states.keys:
            self.runner.handoff.drop(key)
            self.scheduler.encode_failed(
                key, f"its hidden states could not be taken in: {describe(error)}"
            )
        self.runner.probe()

    def step(self) -> StepOutput:
        """One round. An empty output means that nothing happened."""
        scheduler = self.scheduler
        self._take_in()
        if jobs := scheduler.next_encodes():
            self._encode(jobs)
        plan = scheduler.step()
        for key in scheduler.take_unwanted():
            self.runner.handoff.drop(key)
        if withdrawals := scheduler.take_withdrawals():
            self._withdraw(withdrawals)
        launched = self._launch_round(plan)
        self._settle()  # the round before, while the new one runs
        self._under_way = launched
        if not self.runner.looks_ahead:
            self._settle()
        return scheduler.take_output()

    def _launch_round(self, plan: StepPlan | None) -> list[tuple[StepPlan, LaunchedStep]]:
        launched: list[tuple[StepPlan, LaunchedStep]] = []
        while plan is not None and (step := self._launch(plan)) is not None:
            launched.append(step)
            plan = self.scheduler.advance() if len(launched) < self._steps_per_round else None
        return launched

    def _launch(self, plan: StepPlan) -> tuple[StepPlan, LaunchedStep] | None:
        try:
            step = self.runner.launch(plan)
        except (
            Exception
        ) as error:  # whatever the model or the device raised: these requests fail, others go on
            self._fail(plan, error)
            return None
        for slot, refusal in step.refused.items():
            self.scheduler.fail_slot(plan, slot, describe(refusal))
        return plan, step

    def _settle(self) -> None:
        """Waits for the steps under way, and takes in their tokens."""
        steps, self._under_way = self._under_way, []
        for plan, step in steps:
            try:
                result = step.result()
            except Exception as error:
                self._fail(plan, error)
            else:
                self.scheduler.postprocess(plan, result)

    def _fail(self, plan: StepPlan, error: Exception) -> None:
        """Ends a step's sequences. Raises what the device raises if it is of no more use."""
        logger.exception("a decoder step of %d sequences failed", len(plan.slots))
        self.scheduler.fail_step(plan, describe(error))
        self.runner.probe()

    @property
    def rests(self) -> bool:
        """Nothing to compute now; hidden states may be under way."""
        return not self._under_way and self.scheduler.idle

    @property
    def idle(self) -> bool:
        """Nothing to do until a request or hidden states arrive."""
        return self.rests and not self._coming


def describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
