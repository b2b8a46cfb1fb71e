"""What the device knows of each running sequence: its tokens and its sampling settings, one row per slot.

The host keeps the same settings in numpy, so that a step knows without asking the device which rules any of its rows need.
"""

import numpy as np
import torch

from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.sampling import SamplingParams
from antiphon.decoder.sampling.masks import MaskTable, checked_ids
from antiphon.runtime.device import to_device, together_to_device
from antiphon.scheduler.batch import MAX_STOP_IDS
from antiphon.scheduler.plan import Admission

OFF = -1
FIELDS: dict[str, tuple[type, float]] = {  # type, and the value that asks for nothing
    "prompt_len": (np.int64, 0),
    "max_len": (np.int64, 0),
    "min_tokens": (np.int64, 0),
    "temperature": (np.float32, 0),
    "top_k": (np.int64, 0),
    "top_p": (np.float32, 1),
    "min_p": (np.float32, 0),
    "repetition_penalty": (np.float32, 1),
    "presence_penalty": (np.float32, 0),
    "frequency_penalty": (np.float32, 0),
    "forced_first": (np.int64, OFF),
    "forced_last": (np.int64, OFF),
    "mask": (np.int64, 0),
    "begin_mask": (np.int64, 0),
    "timestamps": (np.int64, 0),
    "no_repeat_ngram": (np.int64, 0),
    "bad_words": (np.int64, 0),
    "logprobs": (np.int64, OFF),
    "seed": (np.uint64, 0),
}


_TORCH = {np.int64: torch.int64, np.float32: torch.float32}


def _names(dtype: type) -> list[str]:
    return [name for name, (each, _) in FIELDS.items() if each is dtype]


class Slots:
    """`tokens` [slots, max_len] on the device is the only copy a step reads: decodes need no token from the host.

    One slot more than sequences (`scratch`) takes what a graph's padding writes, and one column more the token after the last.
    """

    def __init__(
        self,
        max_seqs: int,
        max_len: int,
        vocab_size: int,
        device: torch.device,
        padding_id: int | None = None,
    ) -> None:
        """`padding_id`: the model's token that takes no position, where it has one."""
        self.device, self.scratch, self.vocab_size = device, max_seqs, vocab_size
        rows = max_seqs + 1
        self.tokens = torch.zeros(rows, max_len + 1, dtype=torch.int64, device=device)
        self.stop_ids = torch.full((rows, MAX_STOP_IDS), OFF, dtype=torch.int64, device=device)
        self.host: dict[str, np.ndarray] = {
            name: np.full(rows, off, dtype) for name, (dtype, off) in FIELDS.items()
        }
        self._tables = {
            dtype: torch.zeros(len(_names(dtype)), rows, dtype=_TORCH[dtype], device=device)
            for dtype in (np.int64, np.float32)
        }
        self.on_device = {
            name: row
            for dtype, table in self._tables.items()
            for name, row in zip(_names(dtype), table, strict=True)
        }
        self.bad_words: list[tuple[tuple[int, ...], ...]] = [
            ()
        ] * rows  # on the host alone: few checkpoints have any
        self.padding_id = padding_id
        self.positions = (
            None if padding_id is None else torch.arange(max_len + 1, device=device).repeat(rows, 1)
        )
        self.masks = MaskTable(vocab_size, max_seqs, device)
        self.logprob_ids: dict[int, torch.Tensor] = {}  # of slots that name the tokens they ask for

    def admit(self, admissions: list[Admission]) -> dict[int, Exception]:
        """Takes in new sequences; whoever had these slots before is gone. One copy, however many they are.

        Returns by slot what was wrong with those whose settings can't be taken. They run as empty
        sequences that ask for nothing, until their requests are ended; the others don't notice.
        """
        if not admissions:
            return {}
        refused: dict[int, Exception] = {}
        rows = np.array([admission.slot for admission in admissions])
        tokens = np.zeros(
            (len(rows), max(len(admission.token_ids) for admission in admissions)), np.int64
        )
        stops = np.full((len(rows), MAX_STOP_IDS), OFF, np.int64)
        for i, admission in enumerate(admissions):
            self._release(admission.slot)
            try:
                self._set(admission, admission.params, admission.rules)
                ids = checked_ids(admission.token_ids, self.vocab_size)
                ends = [token for token in admission.rules.stop_ids if 0 <= token < self.vocab_size]
            except Exception as error:  # one caller's value: it must not end the step of all
                self._clear(admission.slot)
                refused[admission.slot] = error
            else:
                tokens[i, : len(ids)] = ids
                stops[i, : len(ends)] = ends
        self._copy(rows, tokens, stops)
        return refused

    def _copy(self, rows: np.ndarray, tokens: np.ndarray, stops: np.ndarray) -> None:
        settings = [
            np.stack([self.host[name][rows] for name in _names(dtype)]) for dtype in self._tables
        ]
        where, new_tokens, new_stops, *new_settings = together_to_device(
            [rows, tokens, stops, *settings], self.device
        )
        self.tokens[where, : tokens.shape[1]] = new_tokens
        self.stop_ids[where] = new_stops
        for table, new in zip(self._tables.values(), new_settings, strict=True):
            table[:, where] = new
        if self.positions is not None:
            self._count_positions(where, self.on_device["prompt_len"][where])

    def positions_of(self, slots: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Positions [tokens] of the tokens at `places` of sequences `slots`, as the model counts them."""
        return places if self.positions is None else self.positions[slots, places]

    def _count_positions(self, rows: torch.Tensor, prompt_lens: torch.Tensor) -> None:
        """Padding tokens of a prompt are not counted. Generated ones are: what comes after the prompt
        has its place in the sequence for a position, since transformers counts what is in its cache."""
        assert self.positions is not None
        assert self.padding_id is not None
        places = torch.arange(self.tokens.shape[1], device=self.device)
        counted = self.tokens[rows].ne(self.padding_id).cumsum(1) - 1
        self.positions[rows] = torch.where(
            places < prompt_lens[:, None], counted.clamp(min=0), places
        )

    def _release(self, slot: int) -> None:
        """What a slot holds elsewhere. Its numbers stay: `_set` writes all of them."""
        for name in ("mask", "begin_mask"):
            self.masks.release(int(self.host[name][slot]))
            self.host[name][slot] = 0
        self.logprob_ids.pop(slot, None)

    def _clear(self, slot: int) -> None:
        self._release(slot)
        for name, (_, off) in FIELDS.items():
            self.host[name][slot] = off
        self.bad_words[slot] = ()

    def _set(self, admission: Admission, params: SamplingParams, rules: DecodingRules) -> None:
        slot, bias = admission.slot, dict(params.logit_bias)
        suppress = {"mask": rules.suppress, "begin_mask": (*rules.suppress, *rules.begin_suppress)}
        for name, ids in suppress.items():
            self.host[name][slot] = self.masks.acquire(ids, params.allowed_token_ids, bias)
        forced = {"forced_first": rules.forced_first, "forced_last": rules.forced_last}
        for name, token in forced.items():
            self.host[name][slot] = (
                OFF if token is None else checked_ids([token], self.vocab_size)[0]
            )
        values = {
            "prompt_len": admission.prompt_len,
            "max_len": admission.max_len,
            "min_tokens": max(params.min_tokens, rules.min_tokens),
            "temperature": params.temperature,
            "top_k": params.top_k if params.top_k > 0 else 0,
            "top_p": params.top_p,
            "min_p": params.min_p,
            "repetition_penalty": params.repetition_penalty,
            "presence_penalty": params.presence_penalty,
            "frequency_penalty": params.frequency_penalty,
            "timestamps": rules.timestamps is not None,
            "no_repeat_ngram": rules.no_repeat_ngram,
            "bad_words": bool(rules.bad_words),
            "logprobs": OFF if params.logprobs is None else min(params.logprobs, self.vocab_size),
            "seed": admission.seed,
        }
        self.bad_words[slot] = rules.bad_words
        for name, value in values.items():
            self.host[name][slot] = value
        if params.logprob_token_ids is not None:
            self.logprob_ids[slot] = to_device(
                np.array(params.logprob_token_ids, np.int64), self.device
            )
