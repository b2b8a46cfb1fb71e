"""Continuous batching for encoder/decoder models: one decoder replica's requests, from arrival to their one exit.

A step of the replica is `next_encodes` (encoder work, asked for ahead of need), `step` (who runs now), `take_withdrawals`
(encoder work that nobody wants any more) and `postprocess` (what came of it). The scheduler sees page ids and content keys; never a tensor, an actor or a text.
"""

import math
import operator
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

import numpy as np

from antiphon.kv.pages import PagePool
from antiphon.scheduler.batch import MAX_STOP_IDS, Batch, StopReason
from antiphon.scheduler.plan import Admission, CrossWrite, Logprobs, StepPlan, StepResult
from antiphon.scheduler.queues import OpenQueue
from antiphon.scheduler.request import (
    Finished,
    FinishReason,
    Media,
    Request,
    RequestState,
    StepOutput,
    TokenLogprobs,
)


@dataclass(frozen=True)
class Limits:
    """Lengths in tokens. A sequence must fit `max_len`, its media `max_cross_len`, and both together the pool."""

    max_num_seqs: int
    max_batched_tokens: int
    max_len: int
    max_cross_len: int
    encode_ahead_tokens: int
    max_waiting: int
    page_size: int
    encode_timeout: float = (
        math.inf
    )  # seconds without a sign of encoder work, see `Scheduler._expire_encodes`


LOOK_SECONDS = 1.0  # between two looks at the age of encoder work


@dataclass
class _Encode:
    """Encoder work that was asked for: who waits for it, and whether its hidden states have arrived."""

    num_tokens: int
    encoder: int
    order: int  # of asking
    since: (
        float  # when it was asked for, or its encoder was last heard of while it was still in line
    )
    waiters: dict[int, Request] = field(default_factory=dict)
    arrived: bool = False
    withdrawn: bool = False  # its encoder was told so, and may answer with the states all the same


class _Growth(Enum):
    ENOUGH = auto()
    PREEMPTED = auto()
    MUST_SETTLE = auto()  # the results of steps under way come first


class Scheduler:
    """`clock`: seconds, never set back. Deadlines are of this clock: a request brings seconds with it,
    because other machines' clocks differ."""

    def __init__(
        self, limits: Limits, pages: PagePool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limits, self.pages, self._clock = limits, pages, clock
        self.batch = Batch(
            limits.max_num_seqs, limits.max_len, limits.max_cross_len, limits.page_size
        )
        self.requests: dict[int, Request] = {}  # all that have not ended
        self.counters: Counter[str] = Counter()
        self._waiting: OpenQueue[tuple[int, int], Request] = OpenQueue()
        self._ready: OpenQueue[tuple[int, int], Request] = OpenQueue()
        self._deadlines: OpenQueue[tuple[float, int], Request] = OpenQueue()
        self._encodes: dict[str, _Encode] = {}
        self._encode_tokens = 0  # asked for, not yet in the cache
        self._unwanted: list[str] = []  # arrived keys whose last waiter ended
        self._abandoned: list[
            str
        ] = []  # keys asked for whose last waiter ended before they arrived
        self._output = StepOutput()
        self._arrivals = 0
        self._asked = 0
        self._heard: dict[
            int, tuple[int, float]
        ] = {}  # by encoder: the latest order that it answered, and when
        self._next_look = 0.0

    # ------------------------------------------------------------------ arrival

    def add(self, request: Request) -> None:
        """Takes a request in, or ends it at once as REFUSED when it can never run here. One that is
        here already (a message that came twice) is left as it is."""
        if request.id in self.requests:
            return
        self._arrivals += 1
        request.order = self._arrivals
        self.requests[request.id] = request
        try:
            refusal = self._wrong_kind(request) or self._refusal(request)
        except (
            Exception
        ) as error:  # what no check foresaw: it must not end the loop that serves everybody
            refusal = f"cannot be served: {type(error).__name__}: {error}"
            request.priority = 0  # it may be what was wrong, and has no place in a line any more
        if refusal:
            return self.finish(request, RequestState.REFUSED, error=refusal)
        self._waiting.push(request.place, request)
        if request.timeout is not None:
            request.deadline = self._clock() + request.timeout
            self._deadlines.push((request.deadline, request.id), request)

    @staticmethod
    def _wrong_kind(request: Request) -> str | None:
        """Callers' values were checked where they came in. Here is the last place at which one that
        slipped through ends its own request, instead of a step of all. Raises TypeError, ValueError."""
        params, prompt = request.params, np.asarray(request.prompt_token_ids)
        for number in (
            request.max_tokens,
            request.priority,
            request.media.num_tokens,
            params.logprobs or 0,
        ):
            operator.index(number)
        if request.timeout is not None and math.isnan(request.timeout):
            return "timeout must be seconds, not nan"
        np.array([operator.index(token) for token in request.rules.stop_ids], np.int64)
        if prompt.ndim != 1 or prompt.dtype.kind not in "iu" or not len(prompt):
            return f"the decoder prompt must be token ids in one row, not {prompt.dtype} of shape {prompt.shape}"
        if request.max_tokens < 1 or request.media.num_tokens < 1:
            return f"max_tokens={request.max_tokens} and {request.media.num_tokens} encoder tokens must be at least 1"
        return None

    def _refusal(self, request: Request) -> str | None:
        limits, cross = self.limits, request.media.num_tokens
        pages_needed = self.batch.pages_for(request.max_len) + self.batch.pages_for(cross)
        if len(self.requests) > limits.max_waiting + limits.max_num_seqs:
            return f"{limits.max_waiting} requests are waiting already: try later, or raise max_waiting_requests"
        if request.max_len > limits.max_len:
            prompt = len(request.prompt_token_ids)
            return f"{prompt} prompt tokens + max_tokens={request.max_tokens} are over the decoder's {limits.max_len}: lower max_tokens"
        if cross > limits.max_cross_len:
            return f"{cross} encoder tokens are over this engine's {limits.max_cross_len}: shorten the input"
        if pages_needed > self.pages.num_pages:
            return (
                f"needs {pages_needed} KV pages ({cross} encoder tokens and up to {request.max_len} decoder tokens, "
                f"{limits.page_size} to a page); the pool has {self.pages.num_pages}: raise num_kv_pages or lower max_tokens"
            )
        if len(request.rules.stop_ids) > MAX_STOP_IDS:
            return (
                f"{len(request.rules.stop_ids)} stop token ids; at most {MAX_STOP_IDS} are possible"
            )
        return None

    def cancel(self, request_id: int) -> None:
        """Ends a request as CANCELLED; one that has ended already is left as it is."""
        if request := self.requests.get(request_id):
            self.finish(request, RequestState.CANCELLED, error="cancelled by the caller")

    def stop(self, request_id: int) -> None:
        """Ends a request as DONE: its text met a stop string."""
        if request := self.requests.get(request_id):
            self.finish(request, RequestState.DONE, reason="stop")

    # ------------------------------------------------------------------ encoder work

    def next_encodes(self) -> list[tuple[Media, int]]:
        """Media to encode now, each with its encoder worker: within the budget ahead of what the cache holds."""
        jobs: list[tuple[Media, int]] = []
        while request := self._waiting.first():
            media = request.media
            encode = self._encodes.get(media.key)
            if media.key in self.pages:
                self.counters["cross_cache_hits"] += 1
                self._make_ready(request)
            elif encode is not None:
                self.counters["cross_cache_hits"] += 1
                self._wait_for(encode, request)
            elif not self._may_encode(media):
                break
            else:
                self._asked += 1
                encode = _Encode(media.num_tokens, request.encoder, self._asked, self._clock())
                self._encodes[media.key] = encode
                self._encode_tokens += media.num_tokens
                self.counters["encodes"] += 1
                self._wait_for(encode, request)
                jobs.append((media, request.encoder))
            self._waiting.discard(request.place)
        return jobs

    def _may_encode(self, media: Media) -> bool:
        """Within the budget ahead of need; one piece of work is always possible."""
        return (
            not self._encode_tokens
            or self._encode_tokens + media.num_tokens <= self.limits.encode_ahead_tokens
        )

    def _wait_for(self, encode: _Encode, request: Request) -> None:
        encode.waiters[request.id] = request
        if encode.arrived:
            self._make_ready(request)
        else:
            request.move(RequestState.ENCODING)

    def encoded(self, key: str) -> None:
        """Hidden states of `key` have arrived. Once more, or too late: they are unwanted, or change nothing."""
        encode = self._encodes.get(key)
        if encode is None:
            self._unwanted.append(key)
        elif not encode.arrived:
            self._hear_of(encode)
            encode.arrived = True
            for request in encode.waiters.values():
                request.metrics.encoded_at = time.time()
                self._make_ready(request)
            if not encode.waiters:
                self._forget_encode(key)
                self._unwanted.append(key)

    def encode_failed(self, key: str, error: str) -> None:
        """The encoder could not do `key`: who waits for it fails, nobody else. Nothing where nobody
        waits any more, or where the states came another way."""
        encode = self._encodes.get(key)
        if encode is None or encode.arrived:
            return
        self._hear_of(encode)
        self._fail_encode(key, error)

    def take_withdrawals(self) -> list[tuple[str, int]]:
        """Keys that nobody waits for any more, each with the encoder worker that was asked for it; since the last call.

        Until the encoder answers, the work counts as asked for, and who wants the key joins it: so there
        is never more than one answer to come. It is one of `encoded`, `encode_failed` and `withdrawn`.
        """
        keys, self._abandoned = self._abandoned, []
        withdrawals: list[tuple[str, int]] = []
        for key in keys:
            encode = self._encodes.get(key)
            if encode is not None and not (encode.waiters or encode.arrived or encode.withdrawn):
                encode.withdrawn = True
                withdrawals.append((key, encode.encoder))
        return withdrawals

    def withdrawn(self, keys: Sequence[str]) -> None:
        """Their encoder had not begun, and won't. Who joined meanwhile has it asked for anew."""
        for key in keys:
            encode = self._encodes.get(key)
            if encode is None or not encode.withdrawn or encode.arrived:
                continue  # a message that came twice or too late
            order, _ = self._heard.get(encode.encoder, (0, 0.0))
            self._heard[encode.encoder] = (
                order,
                self._clock(),
            )  # it lives, and has passed over nothing
            self.counters["withdrawn_encodes"] += 1
            self._forget_encode(key)
            for request in encode.waiters.values():
                request.move(RequestState.WAITING)
                self._waiting.push(request.place, request)

    def _fail_encode(self, key: str, error: str) -> None:
        for request in list(self._encodes[key].waiters.values()):
            self.finish(request, RequestState.FAILED, error=error)
        self._forget_encode(key)

    def _hear_of(self, encode: _Encode) -> None:
        order, _ = self._heard.get(encode.encoder, (0, 0.0))
        self._heard[encode.encoder] = max(order, encode.order), self._clock()

    def _expire_encodes(self, now: float) -> None:
        """Fails encoder work whose hidden states will not come: a message was lost, or its worker hangs.

        An encoder answers in the order in which it was asked, and may rightly have minutes of work in
        line. So the time counts anew whenever it answers something that was asked for earlier; what
        it has passed over, or what it says nothing about at all, fails once `encode_timeout` is over,
        and its share of the budget ahead is free again.
        """
        if now < self._next_look:
            return
        self._next_look = now + LOOK_SECONDS
        for key, encode in list(self._encodes.items()):
            order, heard = self._heard.get(encode.encoder, (0, 0.0))
            if order < encode.order:
                encode.since = max(encode.since, heard)
            if not encode.arrived and now - encode.since > self.limits.encode_timeout:
                self.counters["lost_encodes"] += 1
                self._fail_encode(
                    key,
                    f"encoder {encode.encoder} sent no hidden states within {self.limits.encode_timeout:g} s "
                    f"(encode_timeout): its worker hangs, or the message was lost",
                )

    def _forget_encode(self, key: str) -> None:
        self._encode_tokens -= self._encodes.pop(key).num_tokens

    def _abandon(self, key: str, encode: _Encode) -> None:
        """Its last waiter has ended."""
        if encode.arrived:
            self._forget_encode(key)
            self._unwanted.append(key)
        else:
            self._abandoned.append(key)

    def _make_ready(self, request: Request) -> None:
        request.move(RequestState.READY)
        self._ready.push(request.place, request)

    def take_unwanted(self) -> list[str]:
        """Keys whose hidden states nobody wants any more, since the last call."""
        keys, self._unwanted = self._unwanted, []
        return [key for key in keys if not self._arrived(key)]  # some may have been asked for again

    # ------------------------------------------------------------------ one step

    def step(self) -> StepPlan | None:
        """Who runs now; their tokens count as pending until `postprocess`, which may come after further steps.

        None when nobody can run before a result that is still to come.
        """
        self.expire()
        growth = self._grow()
        if growth is _Growth.MUST_SETTLE:
            return None
        admissions, cross_writes = ([], []) if growth is _Growth.PREEMPTED else self._admit()
        return self._plan(admissions, cross_writes)

    def advance(self) -> StepPlan | None:
        """One step more for those who run, before the result of the last is known, with nobody new. None when that can't be."""
        return self._plan([], []) if self._grow() is _Growth.ENOUGH else None

    def expire(self) -> None:
        now = self._clock()
        while (
            (request := self._deadlines.first())
            and request.deadline is not None
            and request.deadline <= now
        ):
            waited = now - request.deadline + (request.timeout or 0.0)
            self.finish(
                request, RequestState.EXPIRED, error=f"its deadline passed after {waited:.3f} s"
            )
        self._expire_encodes(now)

    def _grow(self) -> "_Growth":
        """A page for every running sequence that needs one; preempts the last in line while there are too few."""
        growth = _Growth.ENOUGH
        while len(short := self.batch.slots_short_of_pages()):
            pages = self.pages.allocate(len(short))
            if pages is not None:
                self.batch.add_pages(short, pages)
                break
            if (
                self.batch.pending.any()
            ):  # who is preempted must know its tokens, and one that ends may leave its pages
                return _Growth.MUST_SETTLE
            self._preempt(max(self.batch.running(), key=lambda request: request.place))
            growth = _Growth.PREEMPTED
        return growth

    def _preempt(self, request: Request) -> None:
        """Back to the queue with its tokens; its KV is computed anew when it returns (its cross KV may survive)."""
        self._vacate(request)
        request.metrics.preemptions += 1
        self.counters["preemptions"] += 1
        self._make_ready(request)

    def _vacate(self, request: Request) -> None:
        self.pages.release(self.batch.remove(request))
        self.pages.release_keyed(request.media.key)

    def _admit(self) -> tuple[list[Admission], list[CrossWrite]]:
        """Ready requests in order, while slots, tokens and pages last. Nobody overtakes the first that does not fit."""
        admissions: list[Admission] = []
        writes: list[CrossWrite] = []
        tokens = len(self.batch)  # one for each running sequence
        while not self.batch.full and (request := self._ready.first()):
            if request.media.key not in self.pages and not self._arrived(request.media.key):
                self._ready.discard(request.place)  # evicted while it waited: encode again
                request.move(RequestState.WAITING)
                self._waiting.push(request.place, request)
                continue
            length = len(request.prompt_token_ids) + len(request.generated)
            if tokens + length > max(
                self.limits.max_batched_tokens, self.limits.max_len
            ) or not self._fits(request, length):
                break
            self._ready.discard(request.place)
            admissions.append(self._take_in(request, length, writes))
            tokens += length
        return admissions, writes

    def _arrived(self, key: str) -> bool:
        return key in self._encodes and self._encodes[key].arrived

    def _fits(self, request: Request, length: int) -> bool:
        key, need = request.media.key, self.batch.pages_for(length)
        available = (
            self.pages.available_beside(key) if key in self.pages else self.pages.num_available
        )
        if key not in self.pages:
            need += self.batch.pages_for(request.media.num_tokens)
        reserve = -(-len(self.batch) // 4)  # pages that running sequences will ask for soon
        return need + reserve <= available

    def _take_in(self, request: Request, length: int, writes: list[CrossWrite]) -> Admission:
        key, media = request.media.key, request.media
        if key in self.pages:
            cross_pages = self.pages.share(key)
        else:
            allocated = self.pages.allocate_keyed(key, self.batch.pages_for(media.num_tokens))
            assert allocated is not None
            cross_pages = allocated
            writes.append(CrossWrite(key, media.num_tokens, cross_pages))
            self._forget_encode(key)
        self_pages = self.pages.allocate(self.batch.pages_for(length))
        assert self_pages is not None
        tokens = self.batch.admit(request, self_pages, cross_pages)
        request.move(RequestState.RUNNING)
        return Admission(
            request.slot,
            tokens,
            len(request.prompt_token_ids),
            request.max_len,
            request.seed,
            request.params,
            request.rules,
        )

    def _plan(self, admissions: list[Admission], writes: list[CrossWrite]) -> StepPlan | None:
        batch = self.batch
        slots = batch.runnable()
        if not len(slots):
            return None
        query_lens = (batch.length - batch.computed)[slots]
        slots = slots[np.argsort(query_lens > 1, kind="stable")]
        kv_lens, cross_lens = batch.length[slots], batch.cross_len[slots]
        plan = StepPlan(
            admissions=admissions,
            cross_writes=writes,
            slots=slots,
            ids=batch.ids[slots],
            query_lens=(batch.length - batch.computed)[slots],
            kv_lens=kv_lens,
            self_table=batch.self_table[slots, : batch.pages_for(int(kv_lens.max()))],
            cross_table=batch.cross_table[slots, : batch.pages_for(int(cross_lens.max()))],
            cross_lens=cross_lens,
        )
        batch.launch(slots)
        return plan

    def postprocess(self, plan: StepPlan, result: StepResult) -> None:
        """Appends the sampled tokens; ends the sequences that are done. Rows whose request has ended meanwhile are dropped."""
        batch = self.batch
        rows = self._live_rows(plan)
        slots, tokens = plan.slots[rows], result.tokens[rows]
        first = plan.kv_lens[rows] == batch.prompt_len[slots]
        ended = batch.settle(slots, plan.kv_lens[rows], tokens)
        self.counters["steps"] += 1
        self.counters["tokens"] += len(slots)
        if result.logprobs is not None:
            self._note_logprobs(plan, result.logprobs, result.tokens, rows)
        for slot in slots[first]:
            self._request_at(slot).metrics.first_token_at = time.time()
        streaming = batch.streams[slots]
        self._output.delta_ids += batch.ids[slots[streaming]].tolist()
        self._output.delta_tokens += tokens[streaming].tolist()
        for row in np.flatnonzero(ended):
            self.finish(
                self._request_at(slots[row]),
                RequestState.DONE,
                reason=StopReason(ended[row]).finish_reason,
            )

    def _live_rows(self, plan: StepPlan) -> np.ndarray:
        """Rows of `plan` whose slot still has the request that it had."""
        batch = self.batch
        rows: np.ndarray = np.flatnonzero(
            batch.active[plan.slots] & (batch.ids[plan.slots] == plan.ids)
        )
        return rows

    def fail_step(self, plan: StepPlan, error: str) -> None:
        """The step could not be run: its sequences fail, and so does who came later to share cross KV
        that it should have written. That KV is forgotten, and hidden states that may not have been
        taken for it are unwanted."""
        for slot in plan.slots[self._live_rows(plan)]:
            self.finish(self._request_at(slot), RequestState.FAILED, error=error)
        unwritten = {write.key for write in plan.cross_writes}
        for request in self.batch.running():
            if request.media.key in unwritten:
                self.finish(request, RequestState.FAILED, error=error)
        for key in unwritten:
            self.pages.discard(key)
        self._unwanted += unwritten

    def fail_slot(self, plan: StepPlan, slot: int, error: str) -> None:
        """One sequence of a step could not be taken in as its request asked: that request fails alone."""
        (row,) = np.flatnonzero(plan.slots == slot)
        if request := self.requests.get(int(plan.ids[row])):
            self.finish(request, RequestState.FAILED, error=error)

    def _request_at(self, slot: int) -> Request:
        request = self.batch.requests[slot]
        assert request is not None
        return request

    def _note_logprobs(
        self, plan: StepPlan, found: Logprobs, tokens: np.ndarray, live: np.ndarray
    ) -> None:
        for i in np.flatnonzero(np.isin(found.rows, live)):
            row = found.rows[i]
            request = self._request_at(plan.slots[row])
            k = min(
                request.params.logprobs or 0, found.top_ids.shape[1]
            )  # a vocabulary may have fewer
            request.logprobs.append(
                TokenLogprobs(
                    ids=[int(tokens[row]), *found.top_ids[i, :k].tolist()],
                    logprobs=[float(found.chosen[i]), *found.top[i, :k].tolist()],
                    ranks=[int(found.chosen_rank[i]), *range(1, k + 1)],
                )
            )

    # ------------------------------------------------------------------ the one exit

    def finish(
        self,
        request: Request,
        state: RequestState,
        reason: FinishReason | None = None,
        error: str | None = None,
    ) -> None:
        """Every request ends here, whatever its end. Pages are freed here and, on preemption, in `_preempt`."""
        was = request.state
        request.move(state)
        if was is RequestState.RUNNING:
            self._vacate(request)
        for queue in (self._waiting, self._ready):
            queue.discard(request.place)
        if request.deadline is not None:
            self._deadlines.discard((request.deadline, request.id))
        encode = self._encodes.get(request.media.key)
        if encode is not None and request.id in encode.waiters:
            del encode.waiters[request.id]
            if not encode.waiters:
                self._abandon(request.media.key, encode)
        request.metrics.finished_at = time.time()
        self.counters[state.value] += 1
        del self.requests[request.id]
        self._output.finished.append(
            Finished(
                request.id,
                state,
                request.generated,
                reason,
                error,
                request.logprobs,
                request.metrics,
            )
        )

    @property
    def idle(self) -> bool:
        """Nothing can run and no encoder work can be asked for until something arrives."""
        if len(self.batch) or len(self._ready):
            return False
        waiting = self._waiting.first()
        return waiting is None or not (
            waiting.media.key in self.pages
            or waiting.media.key in self._encodes
            or self._may_encode(waiting.media)
        )

    def take_output(self) -> StepOutput:
        """What happened since the last call."""
        output, self._output = self._output, StepOutput()
        return output
