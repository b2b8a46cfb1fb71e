"""What the device knows of each running sequence: its tokens and its sampling settings, one row per slot.

The host keeps the same settings in numpy, so that a step knows without asking the device which rules any of its rows need.
"""

from collections.abc import Sequence

import numpy as np
import torch

from antiphon.config.sampling import DecodingRules, SamplingParams
from antiphon.scheduler.batch import MAX_STOP_IDS
from antiphon.scheduler.plan import Admission

OFF = -1
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


class MaskTable:
    """Additive masks over the vocabulary, one row for each distinct set of suppressed, allowed and biased tokens in use.

    Row 0 adds nothing. All requests of a Whisper share one row, so the table stays small.
    """

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self.rows = torch.zeros(8, vocab_size, device=device)
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
            self.rows[row] = self._mask(suppress, allowed, bias)
        self._users[row] += 1
        return row

    def release(self, row: int) -> None:
        if row == 0:
            return
        self._users[row] -= 1
        if not self._users[row]:
            del self._users[row], self._row_of[self._key_of.pop(row)]

    def _mask(self, suppress: Sequence[int], allowed: Sequence[int] | None, bias: dict[int, float]) -> torch.Tensor:
        mask = torch.zeros(self.rows.shape[1])
        if allowed is not None:
            mask.fill_(float("-inf"))
            mask[list(allowed)] = 0.0
        for token, value in bias.items():
            mask[token] += value
        mask[list(suppress)] = float("-inf")
        return mask


class Slots:
    """`tokens` [slots, max_len] on the device is the only copy a step reads: decodes need no token from the host."""

    def __init__(self, max_seqs: int, max_len: int, vocab_size: int, device: torch.device) -> None:
        self.device = device
        self.tokens = torch.zeros(max_seqs, max_len, dtype=torch.int64, device=device)
        self.stop_ids = torch.full((max_seqs, MAX_STOP_IDS), OFF, dtype=torch.int64, device=device)
        self.host: dict[str, np.ndarray] = {name: np.zeros(max_seqs, dtype) for name, dtype in FIELDS.items()}
        self.on_device = {
            name: torch.from_numpy(array.copy()).to(device) for name, array in self.host.items() if array.dtype != np.uint64
        }
        self.masks = MaskTable(vocab_size, device)

    def admit(self, admissions: list[Admission]) -> None:
        """Takes in new sequences; whoever had these slots before is gone."""
        if not admissions:
            return
        for each in admissions:
            self.tokens[each.slot, : len(each.token_ids)] = torch.from_numpy(each.token_ids).to(self.device)
            self._set(each, each.params, each.rules)
        rows = np.array([each.slot for each in admissions])
        where = torch.from_numpy(rows).to(self.device)
        for name, tensor in self.on_device.items():
            tensor[where] = torch.from_numpy(self.host[name][rows]).to(self.device)
        stops = np.full((len(rows), MAX_STOP_IDS), OFF, np.int64)
        for row, each in zip(stops, admissions, strict=True):
            row[: len(each.rules.stop_ids)] = each.rules.stop_ids
        self.stop_ids[where] = torch.from_numpy(stops).to(self.device)

    def _set(self, each: Admission, params: SamplingParams, rules: DecodingRules) -> None:
        slot, bias = each.slot, dict(params.logit_bias)
        for name in ("mask", "begin_mask"):
            self.masks.release(int(self.host[name][slot]))
        mask = self.masks.acquire(rules.suppress, params.allowed_token_ids, bias)
        begin = self.masks.acquire((*rules.suppress, *rules.begin_suppress), params.allowed_token_ids, bias)
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
