"""One decoder replica: schedule, run, postprocess. A plain object, driven by a Ray actor, a test or
a benchmark.

A round schedules once and launches `num_scheduler_steps` steps. On a GPU rounds overlap: the next
one is launched before the tokens of the last one have reached the host. So a sequence that has
stopped may run a few steps too often. The results of those rows are dropped; what they write into
its pages comes before anything that the pages' next owner writes, on the same stream.
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
from antiphon.scheduler.encodes import EncodeCommand, Withdrawal
from antiphon.scheduler.limits import Limits
from antiphon.scheduler.plan import StepPlan
from antiphon.scheduler.request import StepOutput
from antiphon.scheduler.scheduler import Scheduler

logger = logging.getLogger(__name__)

AskEncoders = Callable[[list[EncodeCommand]], None]
WithdrawEncodes = Callable[[list[Withdrawal]], None]
StepInFlight = tuple[StepPlan, LaunchedStep]


class DecoderReplica:
    """The scheduler and the runner of one decoder, joined by `step`.

    `ask_encoders` and `withdraw_encodes` must not block. Each piece of encoder work that was asked
    for is answered by `receive_hidden`, by the scheduler's `encode_failed` or, where it was
    withdrawn in time, by its `withdrawn`; in any order.
    """

    def __init__(
        self,
        model: ModelConfig,
        config: EngineConfig,
        ask_encoders: AskEncoders,
        withdraw_encodes: WithdrawEncodes,
        timestamps: TimestampRules | None = None,
    ) -> None:
        """Loads the decoder. Raises what `DecoderRunner` raises."""
        self.runner = DecoderRunner(model, config, timestamps)
        self.scheduler = Scheduler(_limits(model, config), PagePool(self.runner.pool.num_pages))
        self._ask_encoders, self._withdraw_encodes = ask_encoders, withdraw_encodes
        self._steps_per_round = config.scheduler.num_scheduler_steps
        self._in_flight: list[StepInFlight] = []  # between two calls of `step`
        self._received: deque[HiddenStates] = deque()  # maybe still being computed

    # ------------------------------------------------------------------ one step

    def step(self) -> list[StepOutput]:
        """Schedules and launches one round, and takes in the results of the round before.

        Never waits for an encoder. No outputs mean that nothing happened. Raises only what
        the device raises when it is of no more use.
        """
        self._accept_hidden()  # the requests of computed states become ready
        self._request_encodes()  # for waiting requests, within the budget
        plan = self.scheduler.step()  # which sequences run now
        self._discard_unwanted()  # requests that ended in `step` may have been the last to wait
        self._in_flight = self._run_round(plan, self._in_flight)  # tokens of the round before
        return self.scheduler.outputs.pop()  # new tokens, and requests that ended

    def _run_round(
        self, plan: StepPlan | None, in_flight: list[StepInFlight]
    ) -> list[StepInFlight]:
        """Launches the round that begins with `plan` behind the steps `in_flight`; returns the
        steps in flight afterwards.

        With overlap, those are the new ones: the device runs them while the host takes in the
        results of the old ones. Without, nothing stays in flight.
        """
        launched = self._launch_round(plan)
        if not self.runner.overlap:
            in_flight, launched = launched, []
        for step_plan, step in in_flight:
            self._settle(step_plan, step)
        return launched

    def _launch_round(self, plan: StepPlan | None) -> list[StepInFlight]:
        """Up to `num_scheduler_steps` steps: `plan`, then more of the sequences that run then."""
        launched: list[StepInFlight] = []
        while plan is not None and (step := self._launch(plan)) is not None:
            launched.append((plan, step))
            plan = self.scheduler.advance() if len(launched) < self._steps_per_round else None
        return launched

    def _launch(self, plan: StepPlan) -> LaunchedStep | None:
        """None if the step could not be launched: its requests fail, the others go on."""
        try:
            step = self.runner.launch(plan)
        except Exception as error:  # whatever the model or the device raised
            self._fail(plan, error)
            return None
        for slot, refusal in step.refused.items():
            self.scheduler.fail_slot(plan, slot, describe(refusal))
        return step

    def _settle(self, plan: StepPlan, step: LaunchedStep) -> None:
        """Waits for a launched step, and takes in its tokens."""
        try:
            result = step.result()
        except Exception as error:
            self._fail(plan, error)
        else:
            self.scheduler.postprocess(plan, result)

    def _fail(self, plan: StepPlan, error: Exception) -> None:
        """Fails the requests of a step. Raises what the device raises if it is of no more use."""
        logger.exception("a decoder step of %d sequences failed", len(plan.slots))
        self.scheduler.fail_step(plan, describe(error))
        self.runner.probe()

    # ------------------------------------------------------------------ encoder work

    def _request_encodes(self) -> None:
        if commands := self.scheduler.next_encodes():
            self._ask_encoders(commands)

    def _discard_unwanted(self) -> None:
        """Drops hidden states, and takes back encoder work, that no request waits for any more."""
        for key in self.scheduler.encodes.pop_unwanted():
            self.runner.handoff.drop(key)
        if withdrawals := self.scheduler.encodes.pop_withdrawals():
            self._withdraw_encodes(withdrawals)

    def receive_hidden(self, states: HiddenStates) -> None:
        """Hidden states from an encoder, which may still be computing them."""
        self._received.append(states)
        self._accept_hidden()

    def _accept_hidden(self) -> None:
        """Puts hidden states that are computed into the handoff buffer.

        When idle, accepts one input whose encoder is still running: its first step can then be
        queued behind it on the device. Not otherwise: running sequences must not wait for an
        encoder, and what arrives meanwhile must not wait for long.
        """
        while self._received and (
            self._received[0].computed or (self.rests and len(self._received[0].keys) == 1)
        ):
            states = self._received.popleft()
            try:
                self.runner.handoff.put(states)
            except Exception as error:
                self._refuse_hidden(states, error)
            else:
                for key in states.keys:
                    self.scheduler.encoded(key)

    def _refuse_hidden(self, states: HiddenStates, error: Exception) -> None:
        """Fails the requests that wait for `states`. Raises as `_fail`."""
        logger.exception("hidden states of %d inputs could not be taken in", len(states.keys))
        message = f"its hidden states could not be taken in: {describe(error)}"
        for key in states.keys:
            self.runner.handoff.drop(key)
            self.scheduler.encode_failed(key, message)
        self.runner.probe()

    # ------------------------------------------------------------------ state

    @property
    def rests(self) -> bool:
        """True if there is nothing to compute now; hidden states may be on their way."""
        return not self._in_flight and self.scheduler.idle

    @property
    def idle(self) -> bool:
        """True if there is nothing to do until a request or hidden states arrive."""
        return self.rests and not self._received


def _limits(model: ModelConfig, config: EngineConfig) -> Limits:
    options = config.scheduler
    default_budget = options.max_num_seqs * model.max_encoder_len
    return Limits(
        max_num_seqs=options.max_num_seqs,
        max_batched_tokens=options.max_num_batched_tokens,
        max_len=model.max_decoder_len,
        max_cross_len=model.max_encoder_len,
        encode_ahead_tokens=options.encode_ahead_tokens or default_budget,
        max_waiting=options.max_waiting_requests,
        page_size=config.decoder.kv_page_size,
        encode_timeout=options.encode_timeout,
    )


def describe(error: Exception) -> str:
    """Type and message, for a request's error."""
    return f"{type(error).__name__}: {error}"
