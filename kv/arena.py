"""Hidden states and embeddings on the device of the decoder that uses them.

    encoder --put--> rows of one tensor --gather--> cross KV
            --adopt->                   ----------> tokens of a prompt

The scheduler sees only keys, and counts rows by them (`EncodeLedger`): it asks for no
more work than there is room for, and decides what is dropped. So the arena is
back-pressure, cache and target of the handoff in one, and holds the same keys, in the
same rows, on every rank of a replica.
"""

import secrets
from collections.abc import Sequence

import numpy as np
import torch

from antiphon.kv.arena_rows import ArenaRows
from antiphon.kv.handoff import HiddenStates
from antiphon.kv.transports.cuda_memory import CudaHandle, export_memory
from antiphon.kv.transports.nixl_agent import NixlTarget
from antiphon.kv.transports.nixl_handle import NixlHandle
from antiphon.kv.transports.shared_memory import SharedHandle, allocate
from antiphon.runtime.device import to_device


class StateArena:
    """`states` [num_tokens, hidden]: each key owns rows of it, in any place, from `put`
    or `adopt` to `drop`.

    What this process queues on the device is so on the current stream, in the order of
    the calls. `space`: on the rank that leads, which rows are whose; it tells the other
    ranks.
    """

    def __init__(
        self, num_tokens: int, hidden_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.device = device
        # No row is of use before it is written. On a CPU, rows that are never used cost nothing.
        self.states = torch.empty(num_tokens, hidden_size, dtype=dtype, device=device)
        self.space = ArenaRows(num_tokens)
        self._target: NixlTarget | None = None
        self._rows: dict[str, np.ndarray] = {}  # of the keys whose states are here

    def __len__(self) -> int:
        """Keys."""
        return len(self._rows)

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    @property
    def num_free(self) -> int:
        """Rows without a key."""
        return self.space.num_free

    def export(self) -> SharedHandle | CudaHandle:
        """What other processes of the node map. Before anything is in the arena: on a
        CPU it gets other memory. Raises MappingError."""
        assert not self._rows
        if self.states.is_cuda:
            return export_memory(self.states)
        shape, dtype = (self.states.shape[0], self.states.shape[1]), self.states.dtype
        name = f"antiphon-arena-{secrets.token_hex(8)}"
        self.states, handle = allocate(shape, dtype, name)
        return handle

    def register(self) -> NixlHandle:
        """What encoders write to by NIXL. Raises NixlError."""
        assert not self._rows
        self._target = NixlTarget(self.states)
        return self._target.handle

    # ------------------------------------------------------------------ states

    def put(self, states: HiddenStates, rows: np.ndarray | None = None) -> np.ndarray:
        """Copies hidden states here, behind their computation, and returns their rows
        [tokens]. States of a key that is here already replace the old ones. `rows`: on
        ranks that do not lead, where the leader has them.

        Raises ValueError for states that do not fit the arena. Then none of their keys is here.
        """
        packed, lengths = states.packed, list(states.lengths)
        for key in states.keys:
            if key in self:
                self.drop(key)
        try:
            if packed.shape != (sum(lengths), self.states.shape[1]):
                raise ValueError(
                    f"hidden states of shape {list(packed.shape)}, "
                    f"where [{sum(lengths)}, {self.states.shape[1]}] was announced"
                )
            if states.ready is not None and self.device.type == "cuda":
                torch.cuda.current_stream(self.device).wait_event(states.ready)
            if rows is None:
                rows = self.take(states.keys, states.lengths)
            self._write(packed, rows)
        except Exception:
            for key in states.keys:
                self.drop(key)
            raise
        self.adopt(states.keys, np.split(rows, np.cumsum(lengths)[:-1]))
        return rows

    def take(self, keys: Sequence[str], lengths: Sequence[int]) -> np.ndarray:
        """Rows [sum of lengths] for states that are about to be put here, on the rank
        that leads. Raises ValueError if there are too few."""
        taken = [self.space.take(*pair) for pair in zip(keys, lengths, strict=True)]
        return np.concatenate(taken) if taken else np.empty(0, np.int64)

    def _write(self, packed: torch.Tensor, rows: np.ndarray) -> None:
        source = packed.to(self.device, self.states.dtype)
        self.states.index_copy_(0, to_device(rows, self.device), source)
        if source.is_cuda:  # memory of an encoder's stream: kept until this one has read it
            source.record_stream(torch.cuda.current_stream(self.device))

    def adopt(self, keys: Sequence[str], rows: Sequence[np.ndarray]) -> None:
        """The states of `keys` are in `rows`, those of each key."""
        self._rows.update(zip(keys, rows, strict=True))

    def rows(self, keys: Sequence[str]) -> np.ndarray:
        """The rows [tokens] int64 of the states of `keys`, packed in that order, for
        the step that is launched now."""
        for key in keys:
            self.space.use(key)
        return np.concatenate([self._rows[key] for key in keys])

    def drop(self, key: str) -> None:
        """Frees the rows of `key`, if it is here, or will do so once no encoder may write them."""
        self._rows.pop(key, None)
        self.space.drop(key)
