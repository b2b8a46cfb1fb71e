"""What the device knows of each running sequence: its tokens and its sampling settings, one row per slot.

The host keeps the same settings in numpy, so that a step knows without asking the device which rules any of its rows need.
"""

from collections.abc import Sequence

import numpy as np
import torch

from antiphon.config.sampling import DecodingRules, SamplingParams
from antiphon.layers.device import to_device, together_to_device
from antiphon.scheduler.batch import MAX_STOP_IDS
from antiphon.scheduler.plan import Admission

OFF = -1
FIRST_MASKS = 16
FIELDS: dict[str, type] = {
    "prompt_len": np.int64,
    "max_len": np.int64,
    "min_tokens": np.int64,
    "temperature": np.float32,
    "top_k": np.int64,
    "top_p": np.float32,
    "min_p": np.float32,
    "repetition_penalty": np.float32,
    "presence_penalty": np.float32,
    "frequency_penalty": np.float32,
    "forced_first": np.int64,
    "forced_last": np.int64,
    "mask": np.int64,
    "begin_mask": np.int64,
    "timestamps": np.int64,
    "no_repeat_ngram": np.int64,
    "logprobs": np.int64,
    "seed": np.uint64,
}


_TORCH = {np.int64: torch.int64, np.float32: torch.float32}


def _names(dtype: type) -> list[str]:
    return [name for name, each in FIELDS.items() if each is dtype]


class MaskTable:
    """Additive masks over the vocabulary, one row for each distinct set of suppressed, allowed and biased tokens in use.

    Row 0 adds nothing. All requests of a Whisper share one row, so the table stays small. When it must grow it moves:
    `generation` tells captured graphs, which read it where it was.
    """

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self.rows = torch.zeros(FIRST_MASKS, vocab_size, device=device)
        self.generation = 0
        self._row_of: dict[tuple[object, ...], int] = {}
        self._users: dict[int, int] = {0: 1}
        self._key_of: dict[int, tuple[object, ...]] = {}

    def acquire(self, suppress: Sequence[int], allowed: Sequence[int] | None, bias: dict[int, float]) -> int:
        key = (tuple(suppress), None if allowed is None else tuple(allowed), tuple(sorted(bias.items())))
        if key == ((), None, ()):
            return 0
        row = self._row_of.get(key)
        if row is None:
            row = self._row_of[key] = next(i for i in range(len(self._users) + 1) if i not in self._users)
            self._key_of[row], self._users[row] = key, 0
            if row >= len(self.rows):
                self.rows = torch.cat([self.rows, torch.zeros_like(self.rows)])
                self.generation += 1
            self.rows[row] = to_device(self._mask(suppress, allowed, bias), self.rows.device)
        self._users[row] += 1
        return row

    def release(self, row: int) -> None:
        if row == 0:
            return
        self._users[row] -= 1
        if not self._users[row]:
            del self._users[row], self._row_of[self._key_of.pop(row)]

    def _mask(self, suppress: Sequence[int], allowed: Sequence[int] | None, bias: dict[int, float]) -> np.ndarray:
        mask = np.zeros(self.rows.shape[1], np.float32)
        if allowed is not None:
            mask[:] = -np.inf
            mask[list(allowed)] = 0.0
        for token, value in bias.items():
            mask[token] += value
        mask[list(suppress)] = -np.inf
        return mask


class Slots:
    """`tokens` [slots, max_len] on the device is the only copy a step reads: decodes need no token from the host.

    One slot more than sequences (`scratch`) takes what a graph's padding writes, and one column more the token after the last.
    """

    def __init__(self, max_seqs: int, max_len: int, vocab_size: int, device: torch.device) -> None:
        self.device, self.scratch = device, max_seqs
        rows = max_seqs + 1
        self.tokens = torch.zeros(rows, max_len + 1, dtype=torch.int64, device=device)
        self.stop_ids = torch.full((rows, MAX_STOP_IDS), OFF, dtype=torch.int64, device=device)
        self.host: dict[str, np.ndarray] = {name: np.zeros(rows, dtype) for name, dtype in FIELDS.items()}
        self._tables = {
            dtype: torch.zeros(len(_names(dtype)), rows, dtype=_TORCH[dtype], device=device) for dtype in (np.int64, np.float32)
        }
        self.on_device = {
            name: row for dtype, table in self._tables.items() for name, row in zip(_names(dtype), table, strict=True)
        }
        self.masks = MaskTable(vocab_size, device)
        self.logprob_ids: dict[int, torch.Tensor] = {}  # of slots that name the tokens they ask for

    def admit(self, admissions: list[Admission]) -> None:
        """Takes in new sequences; whoever had these slots before is gone. One copy, however many they are."""
        if not admissions:
            return
        for each in admissions:
            self._set(each, each.params, each.rules)
        rows = np.array([each.slot for each in admissions])
        tokens = np.zeros((len(rows), max(len(each.token_ids) for each in admissions)), np.int64)
        stops = np.full((len(rows), MAX_STOP_IDS), OFF, np.int64)
        for i, each in enumerate(admissions):
            tokens[i, : len(each.token_ids)] = each.token_ids
            stops[i, : len(each.rules.stop_ids)] = each.rules.stop_ids
        settings = [np.stack([self.host[name][rows] for name in _names(dtype)]) for dtype in self._tables]
        where, new_tokens, new_stops, *new_settings = together_to_device([rows, tokens, stops, *settings], self.device)
        self.tokens[where, : tokens.shape[1]] = new_tokens
        self.stop_ids[where] = new_stops
        for table, new in zip(self._tables.values(), new_settings, strict=True):
            table[:, where] = new

    def _set(self, each: Admission, params: SamplingParams, rules: DecodingRules) -> None:
        slot, bias = each.slot, dict(params.logit_bias)
        before = [int(self.host[name][slot]) for name in ("mask", "begin_mask")]
        mask = self.masks.acquire(rules.suppress, params.allowed_token_ids, bias)
        begin = self.masks.acquire((*rules.suppress, *rules.begin_suppress), params.allowed_token_ids, bias)
        for row in before:  # after: most requests want the very masks of the one before
            self.masks.release(row)
        values = {
            "prompt_len": each.prompt_len,
            "max_len": each.max_len,
            "min_tokens": max(params.min_tokens, rules.min_tokens),
            "temperature": params.temperature,
            "top_k": params.top_k if params.top_k > 0 else 0,
            "top_p": params.top_p,
            "min_p": params.min_p,
            "repetition_penalty": params.repetition_penalty,
            "presence_penalty": params.presence_penalty,
            "frequency_penalty": params.frequency_penalty,
            "forced_first": OFF if rules.forced_first is None else rules.forced_first,
            "forced_last": OFF if rules.forced_last is None else rules.forced_last,
            "mask": mask,
            "begin_mask": begin,
            "timestamps": rules.timestamps is not None,
            "no_repeat_ngram": rules.no_repeat_ngram,
            "logprobs": OFF if params.logprobs is None else params.logprobs,
            "seed": each.seed,
        }
        for name, value in values.items():
            self.host[name][slot] = value
        self.logprob_ids.pop(slot, None)
        if params.logprob_token_ids is not None:
            self.logprob_ids[slot] = to_device(np.array(params.logprob_token_ids, np.int64), self.device)
