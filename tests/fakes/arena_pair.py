"""A decoder and an encoder whose hidden states go into its arena, in this process."""

from typing import Any

import torch

from antiphon.actors.address import Address
from antiphon.actors.arena_places import ArenaPlaces, export_arena
from antiphon.actors.departures import Departures
from antiphon.actors.encoder_batch import EncoderBatch
from antiphon.actors.links import Links
from antiphon.actors.member_messages import Member
from antiphon.actors.messages import Encode, EncodeJob
from antiphon.actors.outlets import Outlets
from antiphon.config.worker_options import StateTransport
from antiphon.encoder.runner import Encoded
from antiphon.kv.arena import StateArena
from antiphon.kv.transports.interface import Transport
from antiphon.kv.transports.mapped import ArenaExport
from antiphon.scheduler.request import Incarnation, Media

CPU, WIDTH = torch.device("cpu"), 3
ENCODER, OTHER = Incarnation("encoder-0", 2), Incarnation("encoder-1", 1)
ARENA = ArenaExport("arena", (), 8, WIDTH, "float32")


class Decoder:
    """Places of an arena with 8 rows, and a clock that stands still."""

    def __init__(self, arena: StateArena | None = None, export: ArenaExport = ARENA) -> None:
        self.now = 100.0
        self.arena = StateArena(8, WIDTH, torch.float32, CPU) if arena is None else arena
        self.space = self.arena.space
        self.places = ArenaPlaces(self.space, export, lambda: self.now)

    def ask(self, key: str, encoder: Incarnation = ENCODER, tokens: int = 4) -> Any:
        return self.places.place(Media(key, "text", tokens), encoder)

    def gone(self, epoch: int) -> None:
        """The supervisor tells that `ENCODER` up to this epoch is gone."""
        self.places.note([Member("encoder-0", "encoder", epoch, None, gone=epoch)])

    @property
    def late(self) -> dict[Incarnation, tuple[str, ...]]:
        return dict(self.places.late())


def address(node: str = "node") -> Address:
    return Address("tcp://127.0.0.1:1", "ipc:///nowhere", node, b"", b"")


def batch_of(jobs: list[EncodeJob], packed: torch.Tensor) -> EncoderBatch:
    return EncoderBatch(jobs, Encoded([4] * len(jobs), packed), None)


class Pair:
    """A decoder, and an encoder whose answers come here. `told`: transports of the last batch."""

    def __init__(self, transport: StateTransport = "auto") -> None:
        arena = StateArena(8, WIDTH, torch.float32, CPU)
        export = export_arena(arena, Links("node"), (), transport)
        assert export is not None
        self.decoder, self.export = Decoder(arena, export), export
        self.answers: list[Any] = []
        self.told: list[Transport] = []
        completed = list[EncoderBatch]()  # of shares: there are none
        self.outlets = Outlets(
            ENCODER, CPU, Links("node"), lambda _, m: self.answers.append(m), completed.append
        )

    def queue(self, *keys: str, epoch: int = 2, **asked: Any) -> torch.Tensor:
        jobs = [
            EncodeJob(key, 4, "decoder-0", ("f",), place=self.decoder.ask(key, **asked))
            for key in keys
        ]
        admitted = self.outlets.admit(Encode(jobs, arena=self.export, epoch=epoch))
        packed = torch.randn(4 * len(keys), WIDTH)
        self.told = self.outlets.queue(batch_of(admitted, packed))
        return packed

    def depart(self, *keys: str) -> tuple[Departures, list[EncodeJob], torch.Tensor]:
        """Jobs whose states are computed; those that have ended come into the list."""
        ended: list[EncodeJob] = []
        departures = Departures(ended.extend)
        packed = self.queue(*keys)
        departures.add([EncodeJob(key, 4, "decoder-0", ("f",)) for key in keys], self.told)
        return departures, ended, packed

    def encode(self, *keys: str, **asked: Any) -> torch.Tensor:
        packed = self.queue(*keys, **asked)
        for transport in self.told:
            transport.computed()
        return packed
