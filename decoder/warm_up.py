"""Step plans of a made-up sequence that asks for every rule of sampling. A runner runs
them before its first request."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from antiphon.config.decoding_rules import BeamRules, DecodingRules, TimestampRules
from antiphon.config.sampling import SamplingParams
from antiphon.scheduler.plan import Admission, CrossWrite, PlannedDrafts, StepPlan

KEY = "warm-up"  # of the hidden states whose cross KV is written
PROMPT_TOKENS = 2
RULES = DecodingRules(
    stop_ids=(1,),
    suppress=(0,),
    begin_suppress=(1,),
    forced_first=0,
    forced_last=0,
    min_tokens=1,
    no_repeat_ngram=2,
    bad_words=((0, 1),),
    beams=BeamRules(2, by_whisper=True, renormalize=True),
)
PLAIN = SamplingParams()
ASKING = (
    SamplingParams(
        temperature=0.5,
        top_k=2,
        top_p=0.9,
        min_p=0.1,
        repetition_penalty=1.1,
        presence_penalty=0.1,
        frequency_penalty=0.1,
        logprobs=1,
        logit_bias={0: 0.5},
    ),
    SamplingParams(temperature=0.5),  # drawn without filters
    SamplingParams(allowed_token_ids=(0, 1), logprob_token_ids=(0, 1), min_tokens=1),
    PLAIN,
)


@dataclass(frozen=True)
class ScratchSequence:
    """A sequence in the scratch slot and on the scratch page (`cross_page` for
    cross-attention), so it overwrites nothing that a request reads. Together, its plans
    switch on every setting of `SETTINGS` (a test says so)."""

    slot: int
    page: int
    max_len: int
    cross_page: int | None = None  # None: the decoder attends to its own tokens alone

    def plans(self, timestamps: TimestampRules | None) -> Iterator[StepPlan]:
        """For each of `ASKING`, a prompt that also writes the cross KV of one encoder
        token, then a single token; then two of beam searches. The last plan switches
        every setting off again."""
        rules = replace(RULES, timestamps=timestamps)
        alone, prompt = replace(rules, beams=None), min(PROMPT_TOKENS, self.max_len)
        for params in ASKING:
            yield self._plan(prompt, prompt, self._admission(prompt, params, alone), True)
            if prompt < self.max_len:
                yield self._plan(1, prompt + 1, None)
        yield self._plan(1, 1, self._admission(1, ASKING[0], rules))
        # What asks for nothing else has kernels of its own.
        beams = DecodingRules(stop_ids=(1,), timestamps=timestamps, beams=RULES.beams)
        yield self._plan(1, 1, self._admission(1, PLAIN, beams))
        yield self._plan(1, 1, self._admission(1, PLAIN, DecodingRules()))

    def drafting(self, count: int, looked_up: bool) -> StepPlan:
        """A token with `count` drafts, as far as there is room; `looked_up` or by a
        model."""
        count = min(count, self.max_len - 2)
        plan, one = self._plan(1 + count, 1 + count, None), np.ones(1, np.int64)
        tokens = np.zeros((1, count), np.int64) if looked_up else None
        return msgspec.structs.replace(plan, drafts=PlannedDrafts(count * one, count, tokens, one))

    def _admission(self, prompt: int, params: SamplingParams, rules: DecodingRules) -> Admission:
        return Admission(
            self.slot, np.zeros(prompt, np.int64), prompt, self.max_len, 0, params, rules
        )

    def _plan(
        self, queries: int, length: int, admission: Admission | None, writes_cross: bool = False
    ) -> StepPlan:
        row, one = np.array([self.slot]), np.ones(1, np.int64)
        writes = []
        if writes_cross and self.cross_page is not None:
            writes = [CrossWrite(KEY, 1, np.array([self.cross_page], np.int32))]
        admissions = [] if admission is None else [admission]
        return StepPlan(admissions, writes, row, row, queries * one, length * one, one > 0)
