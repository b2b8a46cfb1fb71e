"""What one decoder replica can hold, and why it refuses a request that can never run."""

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from antiphon.kv.pages import pages_for
from antiphon.scheduler.batch import MAX_STOP_IDS
from antiphon.scheduler.drafts import DraftLimits
from antiphon.scheduler.planning import StepBudget
from antiphon.scheduler.request import Media, Request, RequestState


@dataclass(frozen=True)
class Limits:
    """Lengths in tokens. A sequence must fit `max_len`, its media `max_cross_len`, and
    both together the pool."""

    max_num_seqs: int
    max_batched_tokens: int  # of one step
    max_len: int
    max_cross_len: int
    encode_ahead_tokens: int  # encoder tokens asked for, and their cross KV not yet written
    max_waiting: int
    page_size: int
    encode_timeout: float = math.inf  # seconds, see `EncodeLedger`
    aging_seconds: float = math.inf  # see `FairQueue`
    # Of one step, beyond one for each of its prompts; None: as many as `max_batched_tokens` allows.
    max_prompt_tokens: int | None = None
    # Groups of sequences that take turns; a step's budget is for one of them. One for each stage
    # of a pipeline keeps all stages busy.
    num_lanes: int = 1
    prefix_caching: bool = True  # see `PrefixCache`
    cross_apart: bool = False  # what sequences attend to has pages of its own
    aligns: bool = False  # the decoder keeps what word times are made of
    drafts: DraftLimits | None = None  # None: no step drafts

    @property
    def step_budget(self) -> StepBudget:
        prompt = self.max_prompt_tokens
        return StepBudget(
            self.max_batched_tokens, self.max_batched_tokens if prompt is None else prompt
        )


class Refusal(NamedTuple):
    why: str
    state: RequestState = RequestState.REFUSED


def refusal(request: Request, limits: Limits, num_open: int, num_pages: int) -> Refusal | None:
    """Why `request` cannot be served here, or None when it can.

    `num_open`: requests that have not ended, this one included; `num_pages`: pages of
    the pool. Raises TypeError or ValueError for a field of the wrong type. Callers'
    values were checked where they came in; here is the last place where one that
    slipped through ends its own request instead of a step of all requests.
    """
    if why := _bad_value(request) or _over_limit(request, limits, num_pages):
        return Refusal(why)
    if num_open > limits.max_waiting + limits.max_num_seqs:
        why = f"{limits.max_waiting} requests are waiting already: try later, or raise "
        return Refusal(f"{why}max_waiting_requests", RequestState.TURNED_AWAY)
    return None


def _bad_value(request: Request) -> str | None:
    lengths = [media.num_tokens for media in request.inputs]
    for number in (request.max_tokens, request.priority, request.params.logprobs or 0, *lengths):
        operator.index(number)
    np.array([operator.index(token) for token in request.rules.stop_ids], np.int64)
    prompt = np.asarray(request.prompt_token_ids)
    if request.timeout is not None and math.isnan(request.timeout):
        return "timeout must be seconds, not nan"
    if prompt.ndim != 1 or prompt.dtype.kind not in "iu" or not len(prompt):
        return (
            f"the decoder prompt must be token ids in one row, "
            f"not {prompt.dtype} of shape {prompt.shape}"
        )
    if request.max_tokens < 1 or min(lengths, default=1) < 1:
        return (
            f"max_tokens={request.max_tokens} and {min(lengths, default=1)} encoder tokens "
            f"must be at least 1"
        )
    if not 0 <= operator.index(request.begun) < len(prompt):
        return f"{request.begun} tokens that begin the text, of a prompt of {len(prompt)}"
    known = len(prompt) + len(request.generated)
    for position, token_id in request.readouts:
        if not 0 <= operator.index(position) < known or operator.index(token_id) < 0:
            return f"no readout of token {token_id} at position {position} of {known} tokens"
    if (alignment := request.alignment) is not None:
        start, first, frames = map(operator.index, alignment)
        if not (0 <= start < first <= known and 0 < frames <= request.cross_len):
            return (
                f"no alignment of tokens from number {first} of {known}, behind the start at "
                f"{start}, with {frames} of {request.cross_len} encoder tokens"
            )
    return _bad_positions(request)


def _bad_positions(request: Request) -> str | None:
    """Inputs that stand in the prompt must lie within it, one behind the other."""
    inputs = request.inputs
    if not inputs or (len(inputs) == 1 and inputs[0].position is None and inputs[0].token is None):
        return None
    cross = [media for media in inputs if media.position is None]
    if problem := _bad_tokens(cross, len(request.prompt_token_ids)):
        return problem
    if len(cross) == len(inputs):
        return None
    first_free = 0
    for media in sorted(inputs, key=lambda media: media.position or 0):
        if media.position is None:
            continue
        end = operator.index(media.position) + media.num_tokens
        if media.position < first_free or end > len(request.prompt_token_ids):
            return (
                f"an input of {media.num_tokens} tokens at position {media.position} of a prompt "
                f"of {len(request.prompt_token_ids)}: inputs must lie within the prompt, "
                "and none in another"
            )
        first_free = end
    return None


def _bad_tokens(cross: Sequence[Media], prompt_len: int) -> str | None:
    """Several inputs that are attended to stand for tokens of the prompt, in their order."""
    if len(cross) < 2 and all(media.token is None for media in cross):
        return None
    last = -1
    for media in cross:
        if media.token is None:
            return f"{len(cross)} inputs to attend to: without tokens of the prompt, one at most"
        if not (last < media.token < prompt_len and 0 < media.shown <= media.num_tokens):
            return (
                f"an input of {media.num_tokens} tokens, {media.shown} of them shown, for token "
                f"{media.token} of a prompt of {prompt_len}: each needs a token of its own, behind "
                "that of the input before it"
            )
        last = media.token
    return None


def _over_limit(request: Request, limits: Limits, num_pages: int) -> str | None:
    length, cross = request.max_len, request.cross_len
    pages = _most_pages(request, limits)
    stop_ids = request.rules.stop_ids
    if request.alignment is not None and not limits.aligns:
        return "word times are turned off here, or unknown to this model: enable_word_timestamps"
    room = min(limits.max_num_seqs, limits.max_batched_tokens)
    if request.num_slots > room:
        return (
            f"beam_size={request.num_slots} is over the {room} sequences of a step: "
            f"raise max_num_seqs (and max_num_batched_tokens), or lower beam_size"
        )
    if length > limits.max_len:
        return (
            f"{len(request.prompt_token_ids)} prompt tokens + max_tokens={request.max_tokens} "
            f"are over the decoder's {limits.max_len}: lower max_tokens"
        )
    if cross > limits.max_cross_len:
        return (
            f"{cross} encoder tokens are over this engine's {limits.max_cross_len}: "
            f"shorten the input"
        )
    if pages > num_pages:
        return (
            f"needs {pages} KV pages ({cross} encoder tokens and up to {length} decoder tokens"
            f"{_of_beams(request)}, {limits.page_size} to a page); the pool has {num_pages}: "
            f"raise num_kv_pages or lower {_causes(request)}max_tokens"
        )
    if len(stop_ids) > MAX_STOP_IDS:
        return f"{len(stop_ids)} stop token ids; at most {MAX_STOP_IDS} are possible"
    return None


def _most_pages(request: Request, limits: Limits) -> int:
    """Those that it can come to need. The sequences of a search share at least the full pages of
    the prompt. Pages apart always hold the longest that can be attended to."""
    page_size = limits.page_size
    own, shared = pages_for(request.max_len, page_size), 0
    if request.num_slots > 1:
        shared = len(request.prompt_token_ids) // page_size
    cross = 0 if limits.cross_apart else request.cross_pages(page_size)
    return cross + shared + request.num_slots * (own - shared)


def _of_beams(request: Request) -> str:
    return f" for each of {request.num_slots} beams" if request.num_slots > 1 else ""


def _causes(request: Request) -> str:
    return "beam_size or " if request.num_slots > 1 else ""


def encoder_capacity(batch_tokens: int, tokens_ahead: int | None) -> int:
    """Tokens that keep an encoder busy: two batches. Or half of what one decoder asks for ahead of
    need, if that is less: decoders wait for an encoder that has more than this. `tokens_ahead`:
    None without decoders."""
    batches = 2 * batch_tokens
    return batches if tokens_ahead is None else max(1, min(batches, tokens_ahead // 2))
