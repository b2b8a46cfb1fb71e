"""The device's state of running sequences, by slot: tokens and sampling settings.

The host's mirror is `scheduler/batch.py`, which has the same slots: lengths, page
tables, stop ids, and the tokens that the host knows. Sampling settings are kept here on
both sides, so the host knows without waiting which rules a step's rows need.
"""

from collections.abc import Sequence

import numpy as np
import torch

from antiphon.decoder.positions import GridPositions
from antiphon.decoder.sampling.masks import MaskTable
from antiphon.decoder.sampling.settings import OFF, Dtype, SettingsTable, checked_ids
from antiphon.layers.shard import Span
from antiphon.runtime.device import to_device, together_to_device
from antiphon.scheduler.batch import MAX_STOP_IDS
from antiphon.scheduler.beam_plan import BeamMoves
from antiphon.scheduler.plan import Admission, Fork

_TORCH_DTYPES: dict[Dtype, torch.dtype] = {np.int64: torch.int64, np.float32: torch.float32}


class Slots:
    """Device state by slot. One slot beyond those of sequences (`scratch`) takes what a
    graph's padding writes; one further column takes the token after the last.

        tokens       [slots, max_len + 1] int64; the only copy that a step reads, so
                     decodes need no token from the host
        stop_ids     [slots, MAX_STOP_IDS] int64, OFF where unused
        on_device    by name of a setting [slots], int64 or float32
        host         the same on the host, and the seeds
        positions    [slots, max_len + 1] int64, for models whose padding token takes no
                     position
        grid_positions   for models whose tokens have a frame, a row and a column
        bad_words    by slot, on the host alone: few checkpoints have any
        logprob_ids  by slot, token ids whose log-probabilities were asked for by name
        vocabulary   the words of this rank's logits, and of its masks' columns
    """

    def __init__(
        self,
        max_seqs: int,
        max_len: int,
        vocab_size: int,
        device: torch.device,
        padding_id: int | None = None,
        vocabulary: Span | None = None,
        position_axes: int = 1,
        num_embedded: int | None = None,
    ) -> None:
        """`padding_id`: the token that takes no position, for models that have one.
        `num_embedded`: ids that a prompt may have; None: those of the vocabulary.

        `vocabulary`: this rank's words, where ranks share them; None: all.
        """
        self.device, self.scratch, self.vocab_size = device, max_seqs, vocab_size
        self.num_embedded = vocab_size if num_embedded is None else num_embedded
        self.vocabulary = Span.whole(vocab_size) if vocabulary is None else vocabulary
        num_slots = max_seqs + 1
        self.tokens = torch.zeros(num_slots, max_len + 1, dtype=torch.int64, device=device)
        self.stop_ids = torch.full((num_slots, MAX_STOP_IDS), OFF, dtype=torch.int64, device=device)
        self.host = SettingsTable(num_slots)
        self._mask_rows = (self.host["mask"], self.host["begin_mask"])  # [slots] rows of `masks`
        self._device_rows = {
            dtype: torch.zeros(self.host.rows[dtype].shape, dtype=torch_dtype, device=device)
            for dtype, torch_dtype in _TORCH_DTYPES.items()
        }
        self.on_device = {
            name: row
            for dtype, rows in self._device_rows.items()
            for name, row in zip(self.host.names(dtype), rows, strict=True)
        }
        self.masks = MaskTable(vocab_size, max_seqs, device, self.vocabulary)
        self.bad_words: list[tuple[tuple[int, ...], ...]] = [()] * num_slots
        self.logprob_ids: dict[int, torch.Tensor] = {}
        self.padding_id = padding_id
        self.positions: torch.Tensor | None = None
        if padding_id is not None:
            self.positions = torch.arange(max_len + 1, device=device).repeat(num_slots, 1)
        self.grid_positions: GridPositions | None = None
        if position_axes > 1:
            self.grid_positions = GridPositions(num_slots, max_len + 1, device)

    def admit(self, admissions: list[Admission]) -> dict[int, Exception]:
        """Overwrites the state of the admitted slots, in one host-to-device copy.

        Returns, by slot, what was wrong with a sequence's settings. Such a sequence
        runs empty and asks for nothing until its request ends; others are not affected.
        """
        if not admissions:
            return {}
        refused: dict[int, Exception] = {}
        slots = np.array([admission.slot for admission in admissions])
        longest = max(len(admission.token_ids) for admission in admissions)
        tokens = np.zeros((len(slots), longest), np.int64)
        stop_ids = np.full((len(slots), MAX_STOP_IDS), OFF, np.int64)
        for i, admission in enumerate(admissions):
            self._release(admission.slot)
            try:
                self._set(admission)
                ids = checked_ids(admission.token_ids, self.num_embedded)
                stops = [id_ for id_ in admission.rules.stop_ids if 0 <= id_ < self.vocab_size]
            except Exception as error:  # one caller's value: it must not end the step of all
                self._clear(admission.slot)
                refused[admission.slot] = error
            else:
                tokens[i, : len(ids)] = ids
                stop_ids[i, : len(stops)] = stops
        self.host.note_asking(slots)
        self._copy(slots, tokens, stop_ids)
        if self.grid_positions is not None:
            self.grid_positions.admit(admissions)
        return refused

    def fork(self, forks: Sequence[Fork]) -> None:
        """Gives each fork's slot its source's settings and its own tokens, in one
        host-to-device copy. In order, since a fork may be forked again."""
        if not forks:
            return
        slots = np.array([fork.slot for fork in forks])
        longest = max(len(fork.token_ids) for fork in forks)
        tokens = np.zeros((len(slots), longest), np.int64)
        stop_ids = np.full((len(slots), MAX_STOP_IDS), OFF, np.int64)
        for i, fork in enumerate(forks):
            self._release(fork.slot)
            self._inherit(fork)
            stops = [id_ for id_ in fork.stop_ids if 0 <= id_ < self.vocab_size]
            tokens[i, : len(fork.token_ids)], stop_ids[i, : len(stops)] = fork.token_ids, stops
        self.host.note_asking(slots)
        self._copy(slots, tokens, stop_ids)
        if self.grid_positions is not None:
            self.grid_positions.fork(forks)

    def move(self, moves: BeamMoves) -> None:
        """Moves tokens of sequences that go on in another slot, and writes tokens that
        the host has chosen. Settings stay: all slots of a search share them."""
        if not len(moves):
            return
        slots, sources, positions, tokens = together_to_device(
            [moves.slots, moves.sources, moves.positions, moves.tokens], self.device
        )
        self.tokens[slots] = self.tokens[sources]
        self.tokens[slots, positions] = tokens

    def _inherit(self, fork: Fork) -> None:
        for rows in self.host.rows.values():
            rows[:, fork.slot] = rows[:, fork.source]
        for mask_rows in self._mask_rows:
            self.masks.share(int(mask_rows[fork.slot]))
        self.host["seed"][fork.slot], self.host["max_len"][fork.slot] = fork.seed, fork.max_len
        self.bad_words[fork.slot] = self.bad_words[fork.source]
        if fork.source in self.logprob_ids:
            self.logprob_ids[fork.slot] = self.logprob_ids[fork.source]

    def _set(self, admission: Admission) -> None:
        """Writes all settings of a slot. Raises as `SettingsTable.write`."""
        slot, params, rules = admission.slot, admission.params, admission.rules
        own = {
            "prompt_len": admission.prompt_len,
            "max_len": admission.max_len,
            "seed": admission.seed,
        }
        self.host.write(slot, params, rules, self.vocab_size, own)
        allowed, bias = params.allowed_token_ids, params.logit_bias
        suppressed = (rules.suppress, (*rules.suppress, *rules.begin_suppress))
        for rows, suppress in zip(self._mask_rows, suppressed, strict=True):
            rows[slot] = self.masks.acquire(suppress, allowed, bias)
        self.bad_words[slot] = rules.bad_words
        if params.logprob_token_ids is not None:
            ids = np.array(params.logprob_token_ids, np.int64)
            self.logprob_ids[slot] = to_device(ids, self.device)

    def _release(self, slot: int) -> None:
        """Gives up what a slot holds outside the table of settings."""
        for rows in self._mask_rows:
            self.masks.release(int(rows[slot]))
            rows[slot] = 0
        self.logprob_ids.pop(slot, None)
        self.bad_words[slot] = ()

    def _clear(self, slot: int) -> None:
        self._release(slot)
        self.host.clear(slot)

    def _copy(self, slots: np.ndarray, tokens: np.ndarray, stop_ids: np.ndarray) -> None:
        settings = [self.host.rows[dtype][:, slots] for dtype in self._device_rows]
        index, new_tokens, new_stop_ids, *new_settings = together_to_device(
            [slots, tokens, stop_ids, *settings], self.device
        )
        self.tokens[index, : tokens.shape[1]] = new_tokens
        self.stop_ids[index] = new_stop_ids
        for rows, new in zip(self._device_rows.values(), new_settings, strict=True):
            rows[:, index] = new
        if self.positions is not None:
            self._count_positions(index, self.on_device["prompt_len"][index])

    def positions_of(self, slots: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Positions [tokens] or [3, tokens], as the model counts them, of the tokens at
        `indices` [tokens] of the sequences in `slots` [tokens]."""
        if self.grid_positions is not None:
            return self.grid_positions.table[:, slots, indices]
        return indices if self.positions is None else self.positions[slots, indices]

    def _count_positions(self, slots: torch.Tensor, prompt_lens: torch.Tensor) -> None:
        """Padding tokens of a prompt take no position. Behind the prompt, a token's
        position is its index, since transformers counts what is in its cache."""
        assert self.positions is not None
        assert self.padding_id is not None
        indices = torch.arange(self.tokens.shape[1], device=self.device)
        counted = self.tokens[slots].ne(self.padding_id).cumsum(1) - 1
        in_prompt = indices < prompt_lens[:, None]
        self.positions[slots] = torch.where(in_prompt, counted.clamp(min=0), indices)
