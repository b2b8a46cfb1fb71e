"""Beam searches over whole sequences, without pages: what a decoder must find."""

from collections.abc import Callable, Sequence

import numpy as np

from antiphon.config.decoding_rules import BeamRules

Tokens = tuple[int, ...]
# Behind generated tokens: those that may come, and their log-probabilities, likeliest first.
Follow = Callable[[Tokens], tuple[Sequence[int], Sequence[float]]]
Found = tuple[list[int], str, float]  # tokens, why they end, score


def plain_search(
    rules: BeamRules, follow: Follow, max_tokens: int, stops: Callable[[Tokens], bool], end: int
) -> list[Found]:
    """`stops`: whether a sequence ends with its last token. `end`: the stop token."""
    search = _openai if rules.by_whisper else _transformers
    found = search(rules, follow, max_tokens, stops, end)
    best = sorted(found, key=lambda one: -one[2])[: rules.num_best]
    return [(list(tokens), "stop" if stops(tokens) else "length", score)
            for tokens, _, score in best]  # fmt: skip


Running = list[tuple[Tokens, float]]  # with the sum of their log-probabilities, best first
Ended = list[tuple[Tokens, float, float]]  # with their score as well


def _longer(running: Running, follow: Follow, per_row: int | None = None) -> Running:
    longer = [
        ((*tokens, int(token)), total + score)
        for tokens, total in running
        for token, score in list(zip(*follow(tokens), strict=True))[:per_row]
        if score > -np.inf
    ]
    return sorted(longer, key=lambda one: -one[1])


def _transformers(
    rules: BeamRules, follow: Follow, max_tokens: int, stops: Callable[[Tokens], bool], end: int
) -> Ended:
    running: Running = [((), 0.0)]
    kept: Ended = []
    penalty = 1.0 if rules.length_penalty is None else rules.length_penalty
    for length in range(1, max_tokens + 1):
        best = _longer(running, follow, 2 * rules.size)[: 2 * rules.size]
        goes_on = [not stops(tokens) and length < max_tokens for tokens, _ in best]
        for (tokens, total), on in list(zip(best, goes_on, strict=True))[: rules.size]:
            if not on:
                kept.append((tokens, total, total / length**penalty))
        kept = sorted(kept, key=lambda one: -one[2])[: rules.size]
        running = [one for one, on in zip(best, goes_on, strict=True) if on][: rules.size]
        if not running:
            break
        if len(kept) == rules.size and running[0][1] / length**penalty <= kept[-1][2]:
            break
    return kept


def _openai(
    rules: BeamRules, follow: Follow, max_tokens: int, stops: Callable[[Tokens], bool], end: int
) -> Ended:
    running: Running = [((), 0.0)]
    finished: Running = []
    room = round(rules.size * rules.patience)
    for _ in range(max_tokens):
        longer, running = _longer(running, follow), []
        ended: Running = []
        for one in longer:
            (ended if stops(one[0]) else running).append(one)
            if len(running) == rules.size:
                break
        finished = (finished + ended)[:room]
        if len(finished) == room or not running:
            break
    finished += running[: max(0, rules.size - len(finished))]
    lengths = [len(tokens) - (tokens[-1] == end) for tokens, _ in finished]
    return [
        (tokens, total, total / max(1, length))
        for (tokens, total), length in zip(finished, lengths, strict=True)
    ]
