"""Greedy decoding by Triton kernels, under the rules that most requests use, with the
log-probability of the token.

    scan_kernel      one program for each row and BLOCK tokens of the vocabulary: reads the logits,
                     once, and keeps what the row needs of its block
    join_kernel      one program per row: joins its blocks, chooses the token and writes it

Ranks that share the vocabulary scan their own words each. In place of the second kernel come

    describe_kernel  folds a row's blocks into the few numbers that the ranks exchange
    choose_kernel    chooses the same token on every rank, and writes it

A block keeps a maximum and the sum of exp(x - maximum), three times: of the raw logits,
and of the restricted scores of text and of timestamps apart.
`decoder/sampling/restrictions.py` has the same rules in torch, which are the reference:
some sixty launches.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
import triton

from antiphon.kernels.formats import ROW_NUMBERS
from antiphon.kernels.launch import overlapped
from antiphon.kernels.sampling_choice import choose_kernel, describe_kernel, join_kernel
from antiphon.kernels.sampling_scan import IDS, STATS, scan_kernel

BLOCK = 4096  # tokens of one program
SCAN_SETTINGS = ("prompt_len", "min_tokens", "mask", "begin_mask", "timestamps", "forced_first")
CHOICE_SETTINGS = ("prompt_len", "max_len", "forced_first", "forced_last")


class TimestampIds(Protocol):
    """The numbers of Whisper's timestamp rules (`config/decoding_rules.py : TimestampRules`)."""

    @property
    def first_id(self) -> int: ...
    @property
    def last_id(self) -> int: ...
    @property
    def no_timestamps_id(self) -> int: ...
    @property
    def end_id(self) -> int: ...


@dataclass(frozen=True)
class SampledState:
    """What the kernels read of all slots, and where they append: all on the device.

    tokens      [slots, columns] int64
    masks       [masks, words] float32, added to logits; row 0 holds zeros
    stop_ids    [slots, n] int64
    settings    [slots] int64 each, under the names of the kernels' parameters
    timestamps  the rules of the slots whose setting "timestamps" is not 0, but 1 and the most
                ticks that their first timestamp may have
    first_id    the first of the tokens that masks and logits have columns for; ranks that share
                the vocabulary have different ones
    vocabulary  tokens in all
    """

    tokens: torch.Tensor
    masks: torch.Tensor
    stop_ids: torch.Tensor
    settings: Mapping[str, torch.Tensor]
    timestamps: TimestampIds | None
    first_id: int
    vocabulary: int

    def settings_named(self, names: tuple[str, ...]) -> dict[str, torch.Tensor]:
        return {name: self.settings[name] for name in names}

    def rule_constants(self) -> dict[str, Any]:
        """What `restricted_scores` is compiled for."""
        rules = self.timestamps
        return {
            "FIRST": self.first_id,
            "MASK_ROW": self.masks.stride(0),
            "STOPS": self.stop_ids.shape[1],
            "HISTORY": 512,
            "RULED": rules is not None,
            "FIRST_TIME": rules.first_id if rules is not None else 0,
            "LAST_TIME": min(rules.last_id, self.vocabulary) if rules is not None else 0,
            "NO_TIMES": rules.no_timestamps_id if rules is not None else 0,
            "END": rules.end_id if rules is not None else 0,
        }


class Workspace(NamedTuple):
    """What kernels leave for the next one."""

    stats: torch.Tensor  # [rows, blocks, STATS] float32
    ids_of_best: torch.Tensor  # [rows, blocks, IDS] int32
    numbers: torch.Tensor  # [rows, ROW_NUMBERS] float32


def workspace(rows: int, words: int, device: torch.device) -> Workspace:
    """For up to `rows` rows of `words` logits; a rank without words has one empty block."""
    blocks = max(triton.cdiv(words, BLOCK), 1)
    return Workspace(
        torch.zeros(rows, blocks, STATS.value, device=device),
        torch.zeros(rows, blocks, IDS.value, dtype=torch.int32, device=device),
        torch.full((rows, ROW_NUMBERS), float("-inf"), device=device),
    )


def greedy(
    logits: torch.Tensor,
    slots: torch.Tensor,
    lengths: torch.Tensor,
    out: torch.Tensor,
    room: Workspace,
    state: SampledState,
    all_gather: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> None:
    """Chooses every row's next token, and writes it behind its sequence in `state.tokens`.

    `out` [rows, 3] int64 gets the token; the natural logarithms of its probability
    under the raw logits and under the restricted ones, as two float32; and its rank
    from 1 among the raw logits, for the slots whose setting "ranked" is not 0 (else 0).
    A forced token has the restricted log-probability 0.

    `logits` [rows, words] of any float type; `slots`, `lengths` [rows] int32; `room` of
    `workspace`.

    `all_gather`: where ranks share the vocabulary, what makes [ranks, rows,
    ROW_NUMBERS] of every rank's numbers. All of them come to the same tokens, and rank
    none (0).
    """
    step = _Step(logits, slots, lengths, room, state)
    step.scan()
    if all_gather is None:
        step.join(out)
    else:
        step.choose(all_gather(step.describe()), out)


@dataclass(frozen=True)
class _Step:
    """The launches of one step, in their order; arguments as of `greedy`."""

    logits: torch.Tensor
    slots: torch.Tensor
    lengths: torch.Tensor
    room: Workspace
    state: SampledState

    def scan(self) -> None:
        logits, state = self.logits, self.state
        scan_kernel[(self.room.stats.shape[1], len(logits))](
            logits, state.masks, self.slots, self.lengths, state.tokens, state.stop_ids,
            self.room.stats, self.room.ids_of_best,
            vocabulary=state.vocabulary, words=logits.shape[1], columns=state.tokens.shape[1],
            LOGITS_ROW=logits.stride(0), BLOCK=BLOCK, num_warps=8, **state.rule_constants(),
            **state.settings_named(SCAN_SETTINGS), **overlapped(logits.device),
        )  # fmt: skip

    def join(self, out: torch.Tensor) -> None:
        logits, state = self.logits, self.state
        join_kernel[(len(logits),)](
            logits, self.room.stats, self.room.ids_of_best, self.slots, self.lengths,
            state.tokens, out, out.view(torch.float32),
            vocabulary=state.vocabulary, columns=state.tokens.shape[1],
            LOGITS_ROW=logits.stride(0), BLOCK=BLOCK, num_warps=4, **self._blocks(),
            **state.settings_named((*CHOICE_SETTINGS, "ranked")), **overlapped(logits.device),
        )  # fmt: skip

    def describe(self) -> torch.Tensor:
        """[rows, ROW_NUMBERS] float32: what the other ranks must know of this rank's words."""
        logits, state = self.logits, self.state
        numbers = self.room.numbers[: len(logits)]
        describe_kernel[(len(logits),)](
            logits, self.room.stats, self.room.ids_of_best, self.slots, self.lengths, numbers,
            vocabulary=state.vocabulary, words=logits.shape[1],
            FIRST=state.first_id, LOGITS_ROW=logits.stride(0), num_warps=1, **self._blocks(),
            **state.settings_named(CHOICE_SETTINGS), **overlapped(logits.device),
        )  # fmt: skip
        return numbers

    def choose(self, numbers: torch.Tensor, out: torch.Tensor) -> None:
        """From the `numbers` [ranks, rows, ROW_NUMBERS] of every rank."""
        ranks, rows, _ = numbers.shape
        state = self.state
        choose_kernel[(rows,)](
            numbers.contiguous(), self.slots, self.lengths, state.tokens, out,
            out.view(torch.float32),
            vocabulary=state.vocabulary, columns=state.tokens.shape[1],
            RANKS=ranks, ROOM=triton.next_power_of_2(ranks), RULED=state.timestamps is not None,
            num_warps=1, **state.settings_named(CHOICE_SETTINGS), **overlapped(numbers.device),
        )  # fmt: skip

    def _blocks(self) -> dict[str, Any]:
        blocks = self.room.stats.shape[1]
        room = triton.next_power_of_2(blocks)
        return {"BLOCKS": blocks, "ROOM": room, "RULED": self.state.timestamps is not None}
