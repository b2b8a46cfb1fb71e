"""The Ray actors: shells that hold an encoder worker, a decoder worker, or both on one GPU.

Ray calls an actor's methods one after the other; each only puts a command into a worker's inbox, so none waits for a loop.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from antiphon.actors.channel import CommandReceiver, OutputSender, node_address
from antiphon.actors.decoder_worker import DecoderWorker, Send
from antiphon.actors.encoder_worker import EncodeJob, EncoderWorker
from antiphon.actors.loop import Loop
from antiphon.actors.worker import set_threads
from antiphon.config.decoding_rules import TimestampRules
from antiphon.config.options import EngineConfig
from antiphon.decoder.room import check_room
from antiphon.families.checkpoint import ModelConfig
from antiphon.kv.handoff import HiddenStates
from antiphon.scheduler.request import Request


class RemoteDecoder:
    """A decoder worker in another process."""

    in_this_process = False

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def receive_hidden(self, states: HiddenStates) -> None:
        # A top-level argument travels through the object store; a reference to it is all that the call carries.
        self._actor.receive_hidden.remote(*states.to_wire())

    def encode_failed(self, key: str, error: str) -> None:
        self._actor.encode_failed.remote(key, error)

    def withdrawn(self, keys: tuple[str, ...]) -> None:
        self._actor.withdrawn.remote(keys)


class RemoteEncoder:
    """An encoder worker in another process."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def encode(self, jobs: list[EncodeJob]) -> None:
        self._actor.encode.remote(jobs)

    def withdraw(self, decoder: int, keys: tuple[str, ...]) -> None:
        self._actor.withdraw.remote(decoder, keys)


def claim(config: EngineConfig, gpu_share: float) -> None:
    """This process's part of its machine: so many threads, and of its GPU's memory no more than its share."""
    set_threads(config.placement.num_threads)
    if 0.0 < gpu_share < 1.0:
        torch.cuda.set_per_process_memory_fraction(gpu_share)


class Host:
    """An actor's threads, watched and closed together."""

    def __init__(self) -> None:
        self.loops: list[Loop] = []

    def watch(self) -> None:
        """Returns when the host was closed; raises what ended a worker's loop. The engine waits for this all the time, in a thread
        beside the one that takes commands."""
        while all(each.alive for each in self.loops) and not self.loops[0].closing.wait(0.2):
            pass
        for each in self.loops:
            if each.failure is not None:
                raise RuntimeError(
                    f"{type(each).__name__} ended: {type(each.failure).__name__}: {each.failure}"
                )

    def close(self, patience: float = 5.0) -> None:
        """Waits so many seconds for the end of what the threads are doing."""
        for each in self.loops:
            each.closing.set()
        end = time.monotonic() + patience
        for each in self.loops:
            each.close(max(0.0, end - time.monotonic()))


class EncoderHost(Host):
    def load(self, model: ModelConfig, config: EngineConfig, gpu_share: float) -> dict[str, Any]:
        claim(config, gpu_share)
        self.encoder = EncoderWorker(model, config)
        self.loops = [self.encoder]
        return {"encoder": self.encoder.facts}

    def connect(self, decoders: list[Any]) -> None:
        self.encoder.connect({index: RemoteDecoder(actor) for index, actor in enumerate(decoders)})

    def encode(self, jobs: list[EncodeJob]) -> None:
        self.encoder.encode(jobs)

    def withdraw(self, decoder: int, keys: tuple[str, ...]) -> None:
        self.encoder.withdraw(decoder, keys)


class DecoderHost(Host):
    def load(
        self,
        model: ModelConfig,
        config: EngineConfig,
        index: int,
        timestamps: TimestampRules | None,
        gpu_share: float = 1.0,
    ) -> dict[str, Any]:
        claim(config, gpu_share)
        return self._load_decoder(model, config, index, timestamps)

    def _load_decoder(
        self,
        model: ModelConfig,
        config: EngineConfig,
        index: int,
        timestamps: TimestampRules | None,
    ) -> dict[str, Any]:
        self.decoder = DecoderWorker(index, model, config, timestamps)
        self.loops = [self.decoder]
        return {"decoder": self.decoder.facts}

    def connect(self, encoders: list[Any], address: str, token: bytes) -> tuple[str, bytes]:
        """`address` and `token`: the engine's, for outputs. Returns those for commands."""
        self.decoder.connect(
            {index: RemoteEncoder(actor) for index, actor in enumerate(encoders)},
            OutputSender(address, token).send,
        )
        return self._listen()

    def _listen(self) -> tuple[str, bytes]:
        commands: dict[str, Callable[[Any], None]] = {
            "submit": self.decoder.submit,
            "cancel": self.decoder.cancel,
            "stop": self.decoder.stop,
        }
        receiver = CommandReceiver(node_address(), commands)
        receiver.start()
        self.loops.append(receiver)
        return receiver.address, receiver.token

    # The same commands once more, for requests whose input lies in the object store.

    def submit(self, requests: list[Request]) -> None:
        self.decoder.submit(requests)

    def cancel(self, request_id: int) -> None:
        self.decoder.cancel(request_id)

    def stop(self, request_id: int) -> None:
        self.decoder.stop(request_id)

    def receive_hidden(
        self,
        keys: tuple[str, ...],
        lengths: tuple[int, ...],
        packed: np.ndarray,
        dtype: torch.dtype,
    ) -> None:
        self.decoder.receive_hidden(HiddenStates.from_wire(keys, lengths, packed, dtype))

    def encode_failed(self, key: str, error: str) -> None:
        self.decoder.encode_failed(key, error)

    def withdrawn(self, keys: tuple[str, ...]) -> None:
        self.decoder.withdrawn(keys)

    def stats(self) -> dict[str, int]:
        return self.decoder.stats()


class ColocatedHost(DecoderHost):
    """Both halves in one process, each on a stream of its own: hidden states never leave the GPU, and one half computes while
    the other reads memory. (Two processes on one GPU would only take turns.)"""

    def load(
        self,
        model: ModelConfig,
        config: EngineConfig,
        index: int,
        timestamps: TimestampRules | None,
        gpu_share: float = 1.0,
    ) -> dict[str, Any]:
        claim(config, gpu_share)
        check_room(model, config)  # the encoder's weights would be read in vain
        self.encoder = EncoderWorker(
            model, config
        )  # first: the page pool takes what memory is left
        facts = self._load_decoder(model, config, index, timestamps)
        self.loops.append(self.encoder)
        return {"encoder": self.encoder.facts, **facts}

    def connect(self, encoders: list[Any], address: str, token: bytes) -> tuple[str, bytes]:
        self.join(OutputSender(address, token).send)
        return self._listen()

    def join(self, send: Send) -> None:
        """Connects both halves. Whatever encoder a request was given: here it is this one."""
        mine: Mapping[int, EncoderWorker] = defaultdict(lambda: self.encoder)
        self.encoder.connect({self.decoder.index: self.decoder})
        self.decoder.connect(mine, send)
