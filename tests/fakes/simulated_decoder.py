"""A decoder's device made of plain lists: it knows what step plans told it, and nothing else.

A token depends on the seed, on the cross KV and on all keys in a sequence's pages, so that a page
in the wrong place, shared too long or copied too late gives another token. Hidden states that stand
in a prompt are numbers of their own, as tokens are.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from simulated_drafts import put_drafts

from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.sampling import SamplingParams
from antiphon.kv.pages import PagePool
from antiphon.scheduler.beam_plan import BeamCandidates
from antiphon.scheduler.beam_texts import NewText, no_texts
from antiphon.scheduler.limits import Limits
from antiphon.scheduler.plan import Admission, StepPlan, StepResult
from antiphon.scheduler.request import Media, Request, RequestId
from antiphon.scheduler.scheduler import Scheduler

END, POISON, NO_CROSS = 1, -777, -1
PAGE, MAX_LEN = 4, 40
WORDS = np.arange(5, 5 + MAX_LEN)


def chosen(seed: int, cross: int, tokens: Sequence[int]) -> int:
    """The token behind `tokens`; one in eight is END."""
    total = seed * 7919 + cross * 104_729
    total += sum(token * (31 * i * i + 17) for i, token in enumerate(tokens))
    return END if total % 8 == 0 else 2 + total % 97


def candidates(likeliest: int) -> tuple[np.ndarray, np.ndarray]:
    """What a row whose keys give the token `likeliest` may go on with: tokens, END among them,
    and their log-probabilities, likeliest first. One in four rows may go on with one alone."""
    ids = np.array([2 + (likeliest + step) % 97 for step in range(12)] + [END])
    penalties = np.array([(likeliest * (17 + i) + 31 * i) % 64 for i in range(len(ids))])
    scores = -(1 + penalties / 7 + np.arange(len(ids)) / 1000)
    order = np.argsort(-scores)
    if likeliest % 4 == 0:
        scores[order[1:]] = -np.inf
    return ids[order], scores[order]


def state(key: str, number: int) -> int:
    """Hidden state `number` of the input `key`."""
    return 1000 + 37 * ord(key) + number


def undisturbed(request: Request, cross: int) -> list[int]:
    """What `request` generates, from the tokens that it has."""
    tokens, count = request.token_ids.tolist(), len(request.prompt_token_ids)
    for media in request.inputs:
        if media.position is not None:
            for i in range(media.num_tokens):
                tokens[media.position + i] = state(media.key, i)
    while len(tokens) - count < request.max_tokens and END not in tokens[count:]:
        tokens.append(chosen(request.seed, cross, tokens))
    return tokens[count:]


class SimulatedDecoder:
    """Runs the plans of `scheduler`, of its lanes in turn; results come `lag` steps late."""

    def __init__(self, scheduler: Scheduler, lag: int) -> None:
        self.scheduler, self.lag, self.page_size = scheduler, lag, scheduler.limits.page_size
        pages, slots = scheduler.pages.num_pages, scheduler.limits.max_num_seqs
        self.memory = np.full((pages, self.page_size), POISON)
        self.draft_memory = self.memory.copy()  # of a draft model, in the same pages
        self.tables = np.full((slots, pages), POISON)
        self.cross = np.full((slots, 1), POISON)  # first cross page
        self.tokens = np.full((slots, scheduler.limits.max_len + 1), POISON)
        self.seeds = np.full(slots, POISON)
        self.is_beam = np.zeros(slots, bool)
        self.in_flight: deque[tuple[StepPlan, StepResult | None]] = deque()
        self.breaks: set[str] = set()
        # By lane: turns since it last had a plan, or had no sequence.
        self.turns_missed = [0] * scheduler.limits.num_lanes

    def step(self) -> None:
        plan = self._next_plan()
        self.scheduler.encodes.pop_unwanted()
        if plan is not None and "launch" in self.breaks:
            self.breaks.remove("launch")
            self.scheduler.fail_step(plan, "broken launch")
        elif plan is not None:
            self.in_flight.append((plan, self.run(plan)))
        if self.in_flight and (plan is None or len(self.in_flight) > self.lag):
            plan, result = self.in_flight.popleft()
            if result is None:
                self.scheduler.fail_step(plan, "broken result")
            else:
                self.scheduler.postprocess(plan, result)
        self.scheduler.pages.check()
        self.scheduler.batch.check()

    def _next_plan(self) -> StepPlan | None:
        """Of the lane that has waited longest, or of another if that has none."""
        missed, sizes = self.turns_missed, self.scheduler.batch.lane_sizes
        for lane in sorted(range(len(missed)), key=lambda lane: -missed[lane]):
            plan = self.scheduler.step(lane)
            missed[lane] = missed[lane] + 1 if plan is None and sizes[lane] else 0
            if plan is not None:
                self._check_lane(plan)
                for other in range(len(missed)):
                    missed[other] += other != lane and sizes[other] > 0
                return plan
        return None

    def _check_lane(self, plan: StepPlan) -> None:
        """A token that is still to come is of a sequence of one lane, which none other runs."""
        assert set(self.scheduler.batch.lane[plan.slots].tolist()) == {plan.lane}
        for other, _ in self.in_flight:
            if other.lane != plan.lane:
                assert not set(other.ids[other.samples].tolist()) & set(plan.ids.tolist())

    def run(self, plan: StepPlan) -> StepResult | None:
        """None if it breaks: what it should have written is poison then."""
        self._take_changes(plan)
        put_drafts(self, plan)
        rows = list(zip(plan.slots, plan.query_lens, plan.kv_lens, strict=True))
        pages = [self.tables[slot, : -(-kv_len // self.page_size)] for slot, _, kv_len in rows]
        if "result" in self.breaks:
            self.breaks.remove("result")
            for (_, queries, kv_len), own in zip(rows, pages, strict=True):
                positions = np.arange(kv_len - queries, kv_len)
                self.memory[own[positions // self.page_size], positions % self.page_size] = POISON
            return None
        packed = self._embedded(plan)
        for row, ((_, queries, kv_len), own) in enumerate(zip(rows, pages, strict=True)):
            positions = np.arange(kv_len - queries, kv_len)
            written = own[positions // self.page_size]
            others = np.concatenate([*pages[:row], *pages[row + 1 :], np.empty(0, int)])
            assert not set(written.tolist()) & set(others.tolist()), "written and shared"
            self.memory[written, positions % self.page_size] = packed[row]
        tokens, accepted = self._sampled(plan, pages)
        return StepResult(
            tokens.reshape(-1),
            readouts=self._read_out(plan, rows, pages),
            beams=self._candidates(plan, rows, pages),
            per_row=tokens.shape[1],
            accepted=accepted,
        )

    def _sampled(
        self, plan: StepPlan, pages: list[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Tokens [rows, samples of a row]; and how many drafts of each row hold, if there are any:
        those before the first that is not what comes there."""
        counts = np.zeros(len(pages), np.int64) if plan.drafts is None else plan.drafts.counts
        tokens = np.full((len(pages), counts.max() + 1), POISON, np.int64)
        accepted = np.zeros(len(pages), np.int64)
        for row in np.flatnonzero(plan.samples):
            slot, known, count = plan.slots[row], plan.known_lens[row], counts[row]
            drafts = self.tokens[slot, known : known + count].copy()
            for place in range(count + 1):
                tokens[row, place] = self._choose(slot, pages[row], known + place)
                self.tokens[slot, known + place] = tokens[row, place]
            differs = np.flatnonzero(drafts != tokens[row, :count])
            accepted[row] = differs[0] if len(differs) else count
        return tokens, None if plan.drafts is None else accepted

    def _embedded(self, plan: StepPlan) -> list[np.ndarray]:
        """By row: its tokens in this step, or the hidden states in their place."""
        ends = plan.query_lens.cumsum()
        tokens = [
            self.tokens[slot, kv_len - queries : kv_len]
            for slot, queries, kv_len in zip(plan.slots, plan.query_lens, plan.kv_lens, strict=True)
        ]
        packed = np.concatenate(tokens)
        for part in plan.embeddings:
            encodes = self.scheduler.encodes
            assert encodes.has_arrived(part.key) or part.key in encodes.kept, "states are gone"
            values = [state(part.key, part.first + i) for i in range(part.count)]
            packed[part.token : part.token + part.count] = values
        return np.split(packed, ends[:-1])

    def _take_changes(self, plan: StepPlan) -> None:
        for memory in (self.memory, self.draft_memory):
            before = memory.copy()
            for target, source in plan.page_copies.items():
                memory[target] = before[source]
        moves = plan.beam_moves
        if len(moves):
            self.tokens[moves.slots] = self.tokens[moves.sources]
            self.tokens[moves.slots, moves.positions] = moves.tokens
            self.tables[moves.slots, : moves.self_pages.shape[1]] = moves.self_pages
        for entry in (*plan.forks, *plan.admissions):
            self.tables[entry.slot, : len(entry.self_pages)] = entry.self_pages
            self.tokens[entry.slot, : len(entry.token_ids)] = entry.token_ids
            self.seeds[entry.slot] = entry.seed
            is_beam = isinstance(entry, Admission) and entry.rules.beams is not None
            self.is_beam[entry.slot] = is_beam
            self.cross[entry.slot] = entry.cross_pages[0] if entry.cross_len else NO_CROSS
        for write in plan.cross_writes:
            self.memory[write.pages] = ord(write.key)
        new = plan.new_pages
        assert set(new.slots.tolist()) <= set(plan.slots.tolist())
        self.tables[new.slots, new.columns] = new.pages

    def _choose(self, slot: int, pages: np.ndarray, length: int) -> int:
        return self.right_token(slot, self.memory[pages].reshape(-1)[:length].tolist())

    def right_token(self, slot: int, keys: list[int]) -> int:
        """The one behind `keys` in a slot."""
        cross = int(self.cross[slot, 0])
        return chosen(
            int(self.seeds[slot]), 0 if cross == NO_CROSS else int(self.memory[cross, 0]), keys
        )

    def _candidates(
        self, plan: StepPlan, rows: list[tuple[int, int, int]], pages: list[np.ndarray]
    ) -> BeamCandidates | None:
        """Of the rows that sample and have candidates to name."""
        asking = np.flatnonzero(plan.samples & self.is_beam[plan.slots])
        if not len(asking):
            return None
        all_of = [
            candidates(self._choose(rows[row][0], pages[row], rows[row][2])) for row in asking
        ]
        ids, scores = (np.array(parts) for parts in zip(*all_of, strict=True))
        return BeamCandidates(asking, ids, scores, scores, ids[:, :0])

    def _read_out(
        self, plan: StepPlan, rows: list[tuple[int, int, int]], pages: list[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """As log-probabilities: how far the asked token is from the likeliest."""
        readouts = plan.readouts
        if not len(readouts):
            return None
        starts = plan.query_lens.cumsum() - plan.kv_lens
        positions = readouts.queries - starts[readouts.rows]
        likeliest = np.array(
            [
                self._choose(rows[row][0], pages[row], position + 1)
                for row, position in zip(readouts.rows, positions, strict=True)
            ]
        )
        return -np.abs(likeliest - readouts.token_ids).astype(float), likeliest


def make_scheduler(pages: int = 60, new_text: NewText = no_texts, **changes: Any) -> Scheduler:
    limits = {
        "max_num_seqs": 6, "max_batched_tokens": 64, "max_len": MAX_LEN, "max_cross_len": 8,
        "encode_ahead_tokens": 100, "max_waiting": 1000, "page_size": PAGE,
    }  # fmt: skip
    return Scheduler(Limits(**{**limits, **changes}), PagePool(pages), new_text=new_text)


def make_request(
    number: int, prompt: int = 3, max_tokens: int = 12, key: str = "a", **fields: Any
) -> Request:
    return Request(
        RequestId("f", number), np.arange(5, 5 + prompt), (Media(key, "text", 6, None),),
        fields.pop("params", SamplingParams()),
        fields.pop("rules", DecodingRules(stop_ids=(END,))), max_tokens,
        fields.pop("seed", number), **fields,
    )  # fmt: skip


def text_request(
    number: int,
    prompt: Sequence[int] | np.ndarray,
    max_tokens: int = 3,
    inputs: Sequence[tuple[str, int, int]] = (),
    seed: int = 0,
    **fields: Any,
) -> Request:
    """Without cross-attention. `inputs`: key, position and length of each."""
    media = tuple(Media(key, "audio", length, position=at) for key, at, length in inputs)
    return Request(
        RequestId("f", number), np.array(prompt), media, SamplingParams(),
        DecodingRules(stop_ids=(END,)), max_tokens, seed, **fields,
    )  # fmt: skip


def start(decoder: SimulatedDecoder, *requests: Request) -> None:
    for request in requests:
        decoder.scheduler.add(request)
    for command in decoder.scheduler.next_encodes():
        decoder.scheduler.encoded(command.media.key)


def generated_by(scheduler: Scheduler, slot: int) -> list[int]:
    saved = make_request(99)
    scheduler.batch.save(slot, saved)
    return saved.generated
