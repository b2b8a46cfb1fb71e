"""What lies in the frames of commands for the other ranks of a replica (`rank_wire.py`).

`bytes` are arrays: tokens and rows int64, pages int32.
"""

from typing import Any

import msgspec

from antiphon.config.decoding_rules import DecodingRules
from antiphon.scheduler.cross_views import CrossSource
from antiphon.scheduler.grids import PlacedGrid


class AdmissionFrame(msgspec.Struct, array_like=True):
    slot: int
    token_ids: bytes
    prompt_len: int
    max_len: int
    seed: int
    params: dict[str, Any]  # those that were set
    rules: DecodingRules
    self_pages: bytes
    cross_pages: bytes
    cross_len: int
    grids: tuple[PlacedGrid, ...]
    sees: int


class ForkFrame(msgspec.Struct, array_like=True):
    source: int
    slot: int
    id: int
    token_ids: bytes
    max_len: int
    seed: int
    stop_ids: tuple[int, ...]
    self_pages: bytes
    cross_pages: bytes
    cross_len: int
    sees: int


class CrossWriteFrame(msgspec.Struct, array_like=True):
    key: str
    num_tokens: int
    pages: bytes
    sources: tuple[CrossSource, ...]


class LaunchFrame(msgspec.Struct, array_like=True, tag="Launch"):
    number: int
    lane: int
    rows: bytes  # [5, rows]: slots, ids, query_lens, kv_lens, samples
    new_pages: bytes  # [3, n]
    page_copies: bytes  # [2, n]
    readouts: bytes  # [4, n]
    admissions: list[AdmissionFrame]
    forks: list[ForkFrame]
    cross_writes: list[CrossWriteFrame]
    embeddings: list[tuple[str, int, int, int]]
    spent: tuple[str, ...]
    launched: int
    refused: tuple[tuple[int, tuple[int, ...]], ...]
    beam_moves: tuple[bytes, bytes]  # [5, n] and pages [n, pages]
    cross_changes: list[tuple[int, bytes, int, int]]
    drafts: tuple[int, bytes, bytes]  # of a row; [2, rows], and tokens [rows, of a row]


class PutStatesFrame(msgspec.Struct, array_like=True, tag="PutStates"):
    keys: tuple[str, ...]
    lengths: tuple[int, ...]
    rows: bytes


class AdoptStatesFrame(PutStatesFrame, array_like=True, tag="AdoptStates"):
    """The same."""


class CollectStatesFrame(msgspec.Struct, array_like=True, tag="CollectStates"):
    batch: int
    keys: tuple[str, ...]
    lengths: tuple[int, ...]
    tokens: tuple[int, ...]
    wanted: tuple[str, ...]
    rows: bytes
    whole: bool


class DropStatesFrame(msgspec.Struct, array_like=True, tag="DropStates"):
    keys: tuple[str, ...]


class AlignFrame(msgspec.Struct, array_like=True, tag="Align"):
    sequences: list[tuple[int, bytes, int, int]]


CommandFrame = (
    LaunchFrame
    | PutStatesFrame
    | AdoptStatesFrame
    | CollectStatesFrame
    | DropStatesFrame
    | AlignFrame
)
