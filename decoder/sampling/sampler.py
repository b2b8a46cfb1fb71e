"""From logits to tokens, for all rows of a step at once, on the device.

The rules that most requests use (masks, least lengths, Whisper's timestamps, forced tokens, the likeliest token) read their
settings from the device alone, so a captured graph holds them. The others are run after it, for the rows that ask; which do is
known on the host (`Slots.host`), so nothing waits for the device.
"""

from dataclasses import dataclass

import numpy as np
import torch

from antiphon.config.decoding_rules import TimestampRules
from antiphon.decoder.state import OFF, Slots
from antiphon.runtime.device import to_device
from antiphon.scheduler.plan import Logprobs

_MINUS_INF = float("-inf")


@dataclass(frozen=True)
class DeviceLogprobs:
    """As `scheduler.plan.Logprobs`, on the device or on its way to the host."""

    rows: np.ndarray
    chosen: torch.Tensor
    rank: torch.Tensor
    top_ids: torch.Tensor
    top: torch.Tensor

    def start_copy(self) -> "DeviceLogprobs":
        parts = (self.chosen, self.rank, self.top_ids, self.top)
        return DeviceLogprobs(self.rows, *(each.to("cpu", non_blocking=True) for each in parts))

    def on_host(self) -> Logprobs:
        """After `start_copy`, and once the device has come so far."""
        return Logprobs(
            self.rows, *(each.numpy() for each in (self.chosen, self.rank, self.top_ids, self.top))
        )


@dataclass(frozen=True)
class Asked:
    """Which rules any row of a step asks for: the others cost nothing."""

    masks: bool = True
    min_tokens: bool = True
    timestamps: bool = True
    forced: bool = True
    penalties: bool = False
    ngrams: bool = False
    bad_words: bool = False
    random: bool = False
    logprobs: bool = False

    @classmethod
    def by(cls, host: dict[str, np.ndarray], rows: np.ndarray) -> "Asked":
        def some(name: str, off: float) -> bool:
            return bool((host[name][rows] != off).any())

        return cls(
            masks=some("mask", 0) or some("begin_mask", 0),
            min_tokens=some("min_tokens", 0),
            timestamps=some("timestamps", 0),
            forced=some("forced_first", OFF) or some("forced_last", OFF),
            penalties=some("repetition_penalty", 1)
            or some("presence_penalty", 0)
            or some("frequency_penalty", 0),
            ngrams=some("no_repeat_ngram", 0),
            bad_words=some("bad_words", 0),
            random=some("temperature", 0),
            logprobs=some("logprobs", OFF),
        )

    @property
    def fits_graph(self) -> bool:
        """Whether a captured graph chooses the tokens; their log-probabilities are read from its logits."""
        return not (self.penalties or self.ngrams or self.bad_words or self.random)


class Sampler:
    def __init__(self, slots: Slots, timestamps: TimestampRules | None) -> None:
        self.slots, self.timestamps = slots, timestamps

    def asked(self, slots: np.ndarray) -> Asked:
        return Asked.by(self.slots.host, slots)

    def __call__(
        self, logits: torch.Tensor, slots: np.ndarray, lengths: np.ndarray
    ) -> tuple[torch.Tensor, DeviceLogprobs | None]:
        """`logits` [rows, vocabulary] float32 of the sequences in `slots` [rows], which have `lengths` [rows] tokens so far.

        Returns tokens [rows] int64, which it also appends on the device, and log-probabilities of the raw logits for the rows
        that asked.
        """
        asked, step = self.asked(slots), self._step(slots, lengths)
        raw = logits
        if asked.penalties:
            logits = _penalise(logits, step)
        if asked.ngrams:
            logits = _forbid_repeated_ngrams(logits, step)
        if asked.bad_words:
            logits = _forbid_bad_words(logits, step)
        logits = self._restrict(logits, step, asked)
        tokens = self._append(
            _draw(logits, step) if asked.random else logits.argmax(-1), step, asked
        )
        return tokens, _logprobs(raw, tokens, step) if asked.logprobs else None

    def logprobs(
        self, logits: torch.Tensor, tokens: torch.Tensor, slots: np.ndarray, lengths: np.ndarray
    ) -> DeviceLogprobs:
        """Of `tokens` [rows] that `greedy` chose from raw `logits` [rows, vocabulary], for the rows that asked: some did."""
        return _logprobs(logits, tokens, self._step(slots, lengths))

    def _step(self, slots: np.ndarray, lengths: np.ndarray) -> "_Step":
        return _Step(
            self.slots,
            to_device(slots, self.slots.device),
            to_device(lengths, self.slots.device),
            slots,
            lengths,
        )

    def greedy(
        self, logits: torch.Tensor, slots: torch.Tensor, lengths: torch.Tensor, out: torch.Tensor
    ) -> None:
        """The same for rows that ask for nothing but what a graph holds, all on the device: tokens into `out` [rows]."""
        if logits.device.type == "cuda":
            return self.greedy_in_one_kernel(logits, slots, lengths, out)
        step, asked = _Step(self.slots, slots, lengths), Asked()
        out.copy_(self._append(self._restrict(logits, step, asked).argmax(-1), step, asked))

    def greedy_in_one_kernel(
        self, logits: torch.Tensor, slots: torch.Tensor, lengths: torch.Tensor, out: torch.Tensor
    ) -> None:
        """As `greedy`, in one Triton kernel."""
        from antiphon.kernels.sampling import greedy  # Triton is there where CUDA is

        state = self.slots
        greedy(
            logits, slots, lengths, out, tokens=state.tokens, masks=state.masks.rows, stop_ids=state.stop_ids,
            settings=state.on_device, timestamps=self.timestamps,
        )  # fmt: skip

    def _restrict(self, logits: torch.Tensor, step: "_Step", asked: Asked) -> torch.Tensor:
        if asked.masks:
            logits = _mask(logits, step)
        if asked.min_tokens:
            logits = _bar_stops(logits, step)
        if asked.timestamps and self.timestamps is not None:
            logits = _follow_timestamp_rules(logits, step, self.timestamps)
        return logits

    def _append(self, tokens: torch.Tensor, step: "_Step", asked: Asked) -> torch.Tensor:
        if asked.forced:
            tokens = _force(tokens, step)
        self.slots.tokens[step.rows, step.lengths] = tokens
        return tokens


@dataclass(frozen=True)
class _Step:
    """One step's rows, and how to find their settings: on the device (`get`), and outside graphs on the host."""

    slots: Slots
    rows: torch.Tensor  # of the slots
    lengths: torch.Tensor
    rows_host: np.ndarray | None = None
    lengths_host: np.ndarray | None = None

    @property
    def device(self) -> torch.device:
        return self.slots.device

    @property
    def generated(self) -> torch.Tensor:
        return self.lengths - self.get("prompt_len")

    def get(self, name: str) -> torch.Tensor:
        return self.slots.on_device[name][self.rows]

    def host(self, name: str) -> np.ndarray:
        assert self.rows_host is not None
        return self.slots.host[name][self.rows_host]

    def where(self, holds: np.ndarray) -> torch.Tensor:
        return to_device(np.flatnonzero(holds), self.device)

    def history(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens [rows, longest] of these rows, and their lengths [rows]; columns past the length are stale."""
        longest = (
            self.slots.tokens.shape[1]
            if self.lengths_host is None
            else int(self.lengths_host.max())
        )
        return self.slots.tokens[self.rows[rows], :longest], self.lengths[rows]


def _penalise(logits: torch.Tensor, step: _Step) -> torch.Tensor:
    """Repetition (Keskar et al. 2019) over prompt and output; presence and frequency over the output alone."""
    repetition, presence, frequency = (
        step.host(f"{name}_penalty") for name in ("repetition", "presence", "frequency")
    )
    asking = (repetition != 1.0) | (presence != 0.0) | (frequency != 0.0)
    rows = step.where(asking)
    history, lengths = step.history(rows)
    at = torch.arange(history.shape[1], device=step.device)[None]
    written = at < lengths[:, None]
    generated = written & (at >= step.get("prompt_len")[rows][:, None])
    zeros = torch.zeros(len(rows), logits.shape[1], device=step.device)
    seen = zeros.scatter_add(1, history, written.float()) > 0
    count = zeros.scatter_add(1, history, generated.float())
    own = logits[rows]
    penalty = step.get("repetition_penalty")[rows][:, None]
    own = torch.where(seen, torch.where(own > 0, own / penalty, own * penalty), own)
    own = (
        own
        - count * step.get("frequency_penalty")[rows][:, None]
        - (count > 0) * step.get("presence_penalty")[rows][:, None]
    )
    return logits.index_copy(0, rows, own)


def _forbid_repeated_ngrams(logits: torch.Tensor, step: _Step) -> torch.Tensor:
    """No n-gram twice (Paulus et al. 2017): bars tokens that would complete one that is already there."""
    sizes = step.host("no_repeat_ngram")
    for size in np.unique(sizes[sizes > 0]).tolist():
        assert step.lengths_host is not None
        rows = step.where((sizes == size) & (step.lengths_host >= size))
        if not len(rows):
            continue
        history, lengths = step.history(rows)
        grams = history.unfold(1, size, 1)  # [rows, starts, size]
        last = torch.arange(size - 1, device=step.device) + (lengths - (size - 1))[:, None]
        same = (grams[..., :-1] == history.gather(1, last)[:, None]).all(-1)
        whole = torch.arange(grams.shape[1], device=step.device)[None] + size <= lengths[:, None]
        barred = torch.zeros(len(rows), logits.shape[1], device=step.device)
        barred.scatter_add_(1, grams[..., -1], (same & whole).float())
        logits = logits.index_copy(0, rows, logits[rows].masked_fill(barred > 0, _MINUS_INF))
    return logits


def _forbid_bad_words(logits: torch.Tensor, step: _Step) -> torch.Tensor:
    """Bars the last token of each forbidden sequence where the tokens so far, prompt included, end with those before it."""
    assert step.rows_host is not None
    for words in {step.slots.bad_words[slot] for slot in step.rows_host.tolist()}:
        asking = np.array([step.slots.bad_words[slot] == words for slot in step.rows_host.tolist()])
        for size in {len(word) for word in words}:
            assert step.lengths_host is not None
            rows = step.where(asking & (step.lengths_host >= size - 1))
            if not len(rows):
                continue
            table = to_device(
                np.array([word for word in words if len(word) == size]), step.device
            )  # [words, size]
            history, lengths = step.history(rows)
            last = torch.arange(size - 1, device=step.device) + (lengths - (size - 1))[:, None]
            begun = (history.gather(1, last.long())[:, None] == table[None, :, :-1]).all(
                -1
            )  # [rows, words]
            barred = torch.zeros(len(rows), logits.shape[1], device=step.device)
            barred.scatter_add_(1, table[None, :, -1].expand(len(rows), -1), begun.float())
            logits = logits.index_copy(0, rows, logits[rows].masked_fill(barred > 0, _MINUS_INF))
    return logits


def _mask(logits: torch.Tensor, step: _Step) -> torch.Tensor:
    """Suppressed, allowed and biased tokens; other ones at the first token, or behind one that is forced."""
    begin = (
        step.get("forced_first") != OFF
    ).long()  # the first token that is free, as transformers counts
    which = torch.where(step.generated == begin, step.get("begin_mask"), step.get("mask"))
    return logits + step.slots.masks.rows[which]


def _bar_stops(logits: torch.Tensor, step: _Step) -> torch.Tensor:
    """No stop token before `min_tokens`."""
    early = (step.generated < step.get("min_tokens"))[:, None]
    stops = step.slots.stop_ids[step.rows]
    barred = torch.where(early & (stops != OFF), _MINUS_INF, 0.0)
    return logits.scatter_add(
        1, stops.clamp(min=0), barred
    )  # what is no stop token adds nothing to token 0


def _follow_timestamp_rules(
    logits: torch.Tensor, step: _Step, rules: TimestampRules
) -> torch.Tensor:
    """Timestamps come in pairs, never decrease, and are taken when they are together likelier than any text token."""
    history, lengths, generated = (
        *step.history(torch.arange(len(logits), device=step.device)),
        step.generated,
    )
    ids = torch.arange(logits.shape[1], device=step.device)[None]
    is_time = rules.holds(ids)

    def before(back: int) -> torch.Tensor:
        return history.gather(1, (lengths - back).clamp(min=0)[:, None].long())[:, 0]

    last_is_time = (generated >= 1) & rules.holds(before(1))
    pair_is_closed = (generated < 2) | rules.holds(
        before(2)
    )  # the last timestamp, if one, opened a segment
    at = torch.arange(history.shape[1], device=step.device)[None]
    output = (at < lengths[:, None]) & (at >= (lengths - generated)[:, None])
    latest = torch.where(output & rules.holds(history), history, rules.first_id - 1).amax(1)
    repeats = (
        last_is_time & ~pair_is_closed
    )  # the segment's end may be said again, as the next one's start
    earliest = torch.where(
        latest < rules.first_id, rules.first_id, torch.where(repeats, latest, latest + 1)
    )

    barred = ids == rules.no_timestamps_id
    barred = barred | (is_time & (last_is_time & pair_is_closed)[:, None])
    barred = barred | (((ids < rules.end_id) | (ids > rules.last_id)) & repeats[:, None])
    barred = barred | (is_time & (ids < earliest[:, None]))
    first = (generated == 0)[:, None]
    barred = barred | (first & ~is_time)
    if rules.max_initial is not None:
        barred = barred | (first & (ids > rules.first_id + rules.max_initial))
    ruled = logits.masked_fill(barred, _MINUS_INF)
    logprobs = ruled.log_softmax(-1)
    together = logprobs.masked_fill(~is_time, _MINUS_INF).logsumexp(-1)
    likeliest_text = logprobs.masked_fill(is_time, _MINUS_INF).amax(-1)
    ruled = ruled.masked_fill((together > likeliest_text)[:, None] & ~is_time, _MINUS_INF)
    return torch.where((step.get("timestamps") > 0)[:, None], ruled, logits)


def _draw(logits: torch.Tensor, step: _Step) -> torch.Tensor:
    """The likeliest token where temperature is 0; else one drawn by inverting the cumulative distribution.

    A row's draw depends on its own settings, seed and position alone, so it is the same in any batch.
    """
    assert step.lengths_host is not None
    tokens, random = logits.argmax(-1), step.host("temperature") > 0
    filtered = (step.host("top_k") > 0) | (step.host("top_p") < 1.0) | (step.host("min_p") > 0.0)
    uniform = to_device(uniforms(step.host("seed"), step.lengths_host), step.device)
    for holds, draw in ((random & ~filtered, _draw_plain), (random & filtered, _draw_filtered)):
        if holds.any():
            rows = step.where(holds)
            scaled = logits[rows] / step.get("temperature")[rows][:, None]
            tokens = tokens.index_copy(0, rows, draw(scaled, uniform[rows], rows, step))
    return tokens


def _draw_plain(
    scaled: torch.Tensor, uniform: torch.Tensor, rows: torch.Tensor, step: _Step
) -> torch.Tensor:
    return _invert(scaled.softmax(-1), uniform)


def _draw_filtered(
    scaled: torch.Tensor, uniform: torch.Tensor, rows: torch.Tensor, step: _Step
) -> torch.Tensor:
    ordered, ids = scaled.sort(dim=-1, descending=True, stable=True)
    place = torch.arange(scaled.shape[1], device=step.device)[None]
    top_k = step.get("top_k")[rows][:, None]
    ordered = ordered.masked_fill((top_k > 0) & (place >= top_k), _MINUS_INF)
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    dropped = (
        before >= step.get("top_p")[rows][:, None]
    )  # keeps the token that crosses the threshold
    dropped |= probabilities < step.get("min_p")[rows][:, None] * probabilities[:, :1]
    dropped[:, 0] = False
    chosen = _invert(probabilities.masked_fill(dropped, 0.0), uniform)
    return ids.gather(1, chosen[:, None])[:, 0]


def _invert(weights: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Index whose span of the cumulative `weights` [rows, n] holds `uniform` [rows] times their sum."""
    cumulative = weights.double().cumsum(-1)
    target = uniform[:, None] * cumulative[:, -1:]
    index = torch.searchsorted(cumulative, target, right=True)[:, 0]
    last = (weights > 0).long().mul(torch.arange(weights.shape[1], device=weights.device)).amax(-1)
    return torch.minimum(index, last)


def uniforms(seeds: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Numbers in [0, 1), a function of seed and position alone: SplitMix64's finaliser (Steele et al. 2014) over a counter."""
    with np.errstate(over="ignore"):
        x = seeds.astype(np.uint64) * np.uint64(0xD1342543DE82EF95) + (
            positions.astype(np.uint64) + np.uint64(1)
        ) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return (x >> np.uint64(11)).astype(np.float64) / 2.0**53


def _force(tokens: torch.Tensor, step: _Step) -> torch.Tensor:
    """The first and the last token where the model prescribes them."""
    first, last = step.get("forced_first"), step.get("forced_last")
    tokens = torch.where((step.generated == 0) & (first != OFF), first, tokens)
    return torch.where((step.lengths == step.get("max_len") - 1) & (last != OFF), last, tokens)


def _logprobs(raw: torch.Tensor, tokens: torch.Tensor, step: _Step) -> DeviceLogprobs:
    wanted = step.host("logprobs")
    asking = np.flatnonzero(wanted != OFF)
    rows = to_device(asking, step.device)
    logprobs = raw[rows].log_softmax(-1)
    chosen = logprobs.gather(1, tokens[rows][:, None])[:, 0]
    top, ids = logprobs.topk(int(wanted.max()), dim=-1)
    assert step.rows_host is not None
    for i, slot in enumerate(step.rows_host[asking].tolist()):
        if (named := step.slots.logprob_ids.get(slot)) is not None:
            values, order = logprobs[i, named].sort(descending=True)
            top[i, : len(named)], ids[i, : len(named)] = values, named[order]
    return DeviceLogprobs(asking, chosen, (logprobs > chosen[:, None]).sum(-1) + 1, ids, top)
