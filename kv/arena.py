"""Hidden states and embeddings on the device of the decoder that uses them.

    encoder --put--> rows of one tensor --gather--> cross KV
                                        --get-----> tokens of a prompt

The scheduler sees only keys, and counts rows by them (`EncodeLedger`): it asks for no more work
than there is room for, and decides what is dropped. So the arena is back-pressure, cache and target
of the handoff in one, and holds the same keys on every rank of a replica.
"""

from collections.abc import Sequence

import numpy as np
import torch

from antiphon.kv.handoff import HiddenStates
from antiphon.runtime.device import to_device


class StateArena:
    """`states` [num_tokens, hidden]: each key owns rows of it, in any place, from `put` to `drop`.

    What is queued on the device is so on the current stream, in the order of the calls: rows that
    were dropped may be given to another key at once.
    """

    def __init__(
        self, num_tokens: int, hidden_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.device = device
        # Nothing reads a row before it is written. On a CPU, rows that are never used cost nothing.
        self.states = torch.empty(num_tokens, hidden_size, dtype=dtype, device=device)
        self._free = np.arange(num_tokens)[::-1].copy()  # a stack; low rows first
        self._num_free = num_tokens
        self._rows: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        """Keys."""
        return len(self._rows)

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    @property
    def num_free(self) -> int:
        """Rows without a key."""
        return self._num_free

    def put(self, states: HiddenStates) -> None:
        """Copies hidden states here, behind their computation. States of a key that is here already
        replace the old ones.

        Raises ValueError for states that do not fit the arena. Then none of their keys is here.
        """
        for key in states.keys:
            self.drop(key)
        packed, lengths = states.packed, list(states.lengths)
        if packed.shape != (sum(lengths), self.states.shape[1]):
            raise ValueError(
                f"hidden states of shape {list(packed.shape)}, "
                f"where [{sum(lengths)}, {self.states.shape[1]}] was announced"
            )
        if len(packed) > self._num_free:
            raise ValueError(f"{len(packed)} hidden states, and room for {self._num_free}")
        if states.ready is not None and self.device.type == "cuda":
            torch.cuda.current_stream(self.device).wait_event(states.ready)
        rows = self._take(len(packed))
        self._rows.update(zip(states.keys, np.split(rows, np.cumsum(lengths)[:-1]), strict=True))
        try:
            self._write(packed, rows)
        except Exception:
            for key in states.keys:
                self.drop(key)
            raise

    def _write(self, packed: torch.Tensor, rows: np.ndarray) -> None:
        there = packed.to(self.device, self.states.dtype)
        self.states.index_copy_(0, to_device(rows, self.device), there)
        if there.is_cuda:  # memory of an encoder's stream: kept until this one has read it
            there.record_stream(torch.cuda.current_stream(self.device))

    def _take(self, count: int) -> np.ndarray:
        self._num_free -= count
        return self._free[self._num_free : self._num_free + count][::-1].copy()

    def rows(self, keys: Sequence[str]) -> np.ndarray:
        """The rows [tokens] int64 of the states of `keys`, packed in that order."""
        return np.concatenate([self._rows[key] for key in keys])

    def get(self, key: str, first: int, count: int) -> torch.Tensor:
        """`count` of the states of `key` from number `first`, [count, hidden]."""
        return self.states[to_device(self._rows[key][first : first + count], self.device)]

    def drop(self, key: str) -> None:
        """Frees the rows of `key`, if it is here."""
        if (rows := self._rows.pop(key, None)) is not None:
            self._free[self._num_free : self._num_free + len(rows)] = rows[::-1]
            self._num_free += len(rows)
