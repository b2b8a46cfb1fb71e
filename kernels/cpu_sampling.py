"""Choosing tokens on CPUs under the rules that most requests use, compiled with Numba: the
likeliest token of a row, or the likeliest tokens with which a row of a beam search may go on.

A row's logits are read some four times, where the rules in torch, which are the reference
(`decoder/sampling/restrictions.py`), read and write them some twenty times.
"""

from typing import NamedTuple

import numba
import numpy as np

from antiphon.kernels.numba_cache import compiled

NONE = -1  # of a setting: off
# Numbers in any order; maxima may take what is no number for any. Infinities count.
FAST = {"contract", "reassoc", "nsz", "arcp", "nnan"}
MINUS_INF = np.float32(-np.inf)
LANES, BLOCK = 16, 512
LOG2E = np.float32(1.44269504)
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
LOWEST = np.float32(-87.0)


class TimeIds(NamedTuple):
    """Whisper's timestamps: from `first` to before `stop`; all 0: the model has none. None is
    beyond the words of the logits; `no_times` may be NONE."""

    first: int = 0
    stop: int = 0
    no_times: int = 0
    end: int = 0  # from here to `first` are special tokens


class RowRules(NamedTuple):
    """What kernels read of all slots, [slots, ...] each.

    tokens      [slots, columns] int64
    masks       [masks, words] float32, added to logits; row 0 holds zeros
    stop_ids    [slots, n] int64, NONE where unused
    the others  [slots] int64, settings
    """

    tokens: np.ndarray
    masks: np.ndarray
    stop_ids: np.ndarray
    prompt_len: np.ndarray
    max_len: np.ndarray
    mask: np.ndarray
    begin_mask: np.ndarray
    min_tokens: np.ndarray
    timestamps: np.ndarray
    forced_first: np.ndarray
    forced_last: np.ndarray
    ranked: np.ndarray
    beams_by_whisper: np.ndarray
    beams_renormalized: np.ndarray


@compiled(nogil=True)
def likeliest_tokens(logits, slots, lengths, rules, ids, tokens, logprobs, ranks):
    """Chooses each row's token as `Sampler.greedy`, and writes it behind its sequence.

    logits [rows, words] float32; slots, lengths [rows]; ids: of timestamps. Written [rows]:
    tokens; logprobs [rows, 2] under the raw logits and under the rules; ranks.
    """
    for row in range(len(logits)):
        _choose(logits[row], slots[row], lengths[row], rules, ids, row, tokens, logprobs, ranks)


@compiled(nogil=True)
def likeliest_candidates(logits, rows, slots, lengths, rules, ids, tokens, scores, logprobs):
    """The likeliest tokens of `rows` [n], as `Sampler.beam_candidates`; slots, lengths [n].

    Written [n, k]: tokens, their log-probabilities under the rules, and under the raw logits.
    """
    for i in range(len(rows)):
        _name_candidates(
            logits[rows[i]], slots[i], lengths[i], rules, ids, tokens[i], scores[i], logprobs[i]
        )


@numba.njit(fastmath=FAST)
def _choose(raw, slot, length, rules, ids, row, tokens, logprobs, ranks):
    of_all, scores, top, together = _ruled(raw, slot, length, rules, ids)
    prescribed = _prescribed(slot, length, rules)
    token = prescribed
    if prescribed == NONE:
        token = _first(scores, top)
    rules.tokens[slot, length] = tokens[row] = token
    logprobs[row, 0] = raw[token] - of_all
    logprobs[row, 1] = np.float32(0) if prescribed != NONE else top - together
    rank = 0
    if rules.ranked[slot] > 0:
        rank, chosen = 1, raw[token]
        for i in range(len(raw)):
            rank += raw[i] > chosen
    ranks[row] = rank


@numba.njit(fastmath=FAST)
def _name_candidates(raw, slot, length, rules, ids, tokens, scores, logprobs):
    of_all, ruled, _, together = _ruled(raw, slot, length, rules, ids)
    is_normed = rules.beams_by_whisper[slot] > 0 or rules.beams_renormalized[slot] > 0
    below = together if is_normed else of_all
    count, prescribed = len(tokens), _prescribed(slot, length, rules)
    for i in range(count):
        tokens[i], scores[i] = 0, MINUS_INF
    if prescribed != NONE:
        tokens[0], scores[0] = prescribed, np.float32(0)
    else:
        _likeliest(ruled, tokens, scores)
        for i in range(count):
            scores[i] -= below
    for i in range(count):
        logprobs[i] = raw[tokens[i]] - of_all


@numba.njit
def _likeliest(numbers, places, best):
    """The largest of `numbers` above minus infinity, largest first, into `best` and `places`."""
    last = len(best) - 1
    for start in range(0, len(numbers), BLOCK):
        stop = min(start + BLOCK, len(numbers))
        if _top(numbers, start, stop) <= best[last]:
            continue
        for place in range(start, stop):
            if numbers[place] > best[last]:
                i = last
                while i > 0 and numbers[place] > best[i - 1]:
                    best[i], places[i] = best[i - 1], places[i - 1]
                    i -= 1
                best[i], places[i] = numbers[place], place


@numba.njit(fastmath=FAST)
def _ruled(raw, slot, length, rules, ids):
    """Of one row: log-sum-exp of its raw logits; its scores under the rules, their largest, and
    their log-sum-exp, 0 where all are barred."""
    top_raw, of_all = _log_sum_exp(raw, 0, len(raw))
    generated = length - rules.prompt_len[slot]
    free = 1 if rules.forced_first[slot] != NONE else 0  # the first token that is not forced
    which = rules.begin_mask[slot] if generated == free else rules.mask[slot]
    early = generated < rules.min_tokens[slot]
    timed = ids.stop > 0 and rules.timestamps[slot] > 0
    if which == 0 and not early and not timed:
        return of_all, raw, top_raw, of_all
    scores = raw.copy()
    if which != 0:
        for i in range(len(scores)):
            scores[i] += rules.masks[which, i]
    if early:
        for stop in rules.stop_ids[slot]:
            if stop != NONE:
                scores[stop] = MINUS_INF
    if timed:
        _bar_by_timestamps(scores, slot, length, generated, rules, ids)
    top, together = _times_or_all(scores, ids, timed)
    return of_all, scores, top, together if top > MINUS_INF else np.float32(0)


@numba.njit
def _bar_by_timestamps(scores, slot, length, generated, rules, ids):
    """Timestamps come in pairs and never decrease; text begins with one."""
    own, first, stop = rules.tokens[slot], ids.first, ids.stop
    last_is_time = generated >= 1 and first <= own[length - 1] < stop
    pair_is_closed = generated < 2 or first <= own[length - 2] < stop
    repeats = last_is_time and not pair_is_closed
    latest = first - 1
    for i in range(length - generated, length):
        if first <= own[i] < stop:
            latest = max(latest, own[i])
    earliest = latest if repeats and latest >= first else latest + 1
    if last_is_time and pair_is_closed:
        earliest = stop
    _bar(scores, first, min(earliest, stop))
    if ids.no_times != NONE:
        scores[ids.no_times] = MINUS_INF
    if generated == 0:
        _bar(scores, 0, first)
        _bar(scores, stop, len(scores))
        _bar(scores, min(first + rules.timestamps[slot], stop), stop)
    elif repeats:
        _bar(scores, 0, ids.end)
        _bar(scores, stop, len(scores))


@numba.njit
def _bar(scores, start, stop):
    for i in range(start, stop):
        scores[i] = MINUS_INF


@numba.njit(fastmath=FAST)
def _times_or_all(scores, ids, timed):
    """The largest score and log-sum-exp, after text is barred where timestamps are together
    likelier than any text."""
    first, stop = len(scores), len(scores)
    if timed:
        first, stop = ids.first, ids.stop
    bounds = (0, first, stop, len(scores))
    tops, sums = np.empty(3, np.float32), np.empty(3, np.float32)
    for part in range(3):
        tops[part], sums[part] = _log_sum_exp(scores, bounds[part], bounds[part + 1])
    if sums[1] > max(tops[0], tops[2]):
        _bar(scores, 0, first)
        _bar(scores, stop, len(scores))
        return tops[1], sums[1]
    top, total = max(tops[0], tops[1], tops[2]), np.float32(0)
    if top > MINUS_INF:
        for part in range(3):
            total += np.exp(sums[part] - top)
    return top, top + np.log(total)


@numba.njit(fastmath=FAST)
def _log_sum_exp(numbers, start, stop):
    """The largest number from `start` to before `stop`, and log-sum-exp; both minus infinity where
    all are."""
    top, total = _top(numbers, start, stop), np.float32(0)
    if top == MINUS_INF:
        return top, top
    for i in range(start, stop):
        total += _exp(numbers[i] - top)
    return top, top + np.log(total)


@numba.njit(inline="always")
def _exp(x):
    """exp of a float32 that is at most 88, within 3e-7 of its value; 1.6e-38 below -87.

    Without a call, so that LLVM makes vectors of the loop around it: powers of 2 by the exponent's
    bits, the rest by the polynomial of Cephes (expf.c).
    """
    limited = x if x > LOWEST else LOWEST
    power = np.floor(limited * LOG2E + np.float32(0.5))
    rest = limited - power * LN2_HIGH - power * LN2_LOW
    series = np.float32(1.9875691500e-4)
    series = series * rest + np.float32(1.3981999507e-3)
    series = series * rest + np.float32(8.3334519073e-3)
    series = series * rest + np.float32(4.1665795894e-2)
    series = series * rest + np.float32(1.6666665459e-1)
    series = series * rest + np.float32(5.0000001201e-1)
    series = series * rest * rest + rest + np.float32(1)
    bits = (np.int32(power) + np.int32(127)) << np.int32(23)
    return series * np.int32(bits).view(np.float32)


@numba.njit(fastmath=FAST)
def _top(numbers, start, stop):
    """The largest from `start` to before `stop`, of LANES at once."""
    tops, whole = np.empty(LANES, np.float32), start + (stop - start) // LANES * LANES
    for i in range(LANES):
        tops[i] = MINUS_INF
    for begin in range(start, whole, LANES):
        for i in range(LANES):
            tops[i] = max(tops[i], numbers[begin + i])
    top = MINUS_INF
    for i in range(LANES):
        top = max(top, tops[i])
    for i in range(whole, stop):
        top = max(top, numbers[i])
    return top


@numba.njit
def _first(numbers, number):
    """The first place of `number`; 0 where it is not there."""
    for i in range(len(numbers)):
        if numbers[i] == number:
            return i
    return 0


@numba.njit
def _prescribed(slot, length, rules):
    """The token that the model prescribes behind `length` tokens, or NONE."""
    if length == rules.max_len[slot] - 1 and rules.forced_last[slot] != NONE:
        return rules.forced_last[slot]
    return rules.forced_first[slot] if length == rules.prompt_len[slot] else NONE
