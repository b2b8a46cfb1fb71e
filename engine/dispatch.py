"""Sends requests to their decoder workers, and their inputs to the encoders that will use them."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import numpy as np

from antiphon.actors.channel import PeerGone
from antiphon.actors.messages import (
    Cancel,
    Input,
    InputGone,
    Inputs,
    Message,
    NeedInput,
    StillOpen,
    Stop,
    Submit,
)
from antiphon.actors.workers import Workers
from antiphon.engine.kept_inputs import KeptInputs
from antiphon.inputs.prepared import EncoderInput
from antiphon.scheduler.request import Request
from antiphon.scheduler.router import Route

logger = logging.getLogger(__name__)

NotSent = Callable[[Request, Exception], None]

# Inputs of open requests that may lie at one encoder before they are asked for. What an encoder has
# no room for would have been sent in vain.
AHEAD_BYTES = 256 << 20
PACKED_BYTES = 64 << 10  # inputs up to this size are copied, to travel together


class Dispatcher:
    """The requests of one turn of the event loop go in one message to each decoder, and short
    inputs in one to each encoder: a message of its own costs more than sending its content.

    An input goes ahead to the encoder on its request's route. The decoder, which learns which one
    has it, mostly has it encoded there; another encoder asks for it. `workers` is None while the
    engine does not run; nothing is sent then.
    """

    def __init__(self, frontend: str, not_sent: NotSent) -> None:
        """`not_sent` is told of each request that could not be sent, and why."""
        self.frontend = frontend
        self.workers: Workers | None = None
        self.inputs = KeptInputs()
        self._not_sent = not_sent
        self._outbox: dict[str, list[Request]] = {}  # by decoder
        self._short: dict[tuple[str, str], list[EncoderInput]] = {}  # by encoder and dtype
        # By encoder, keys of inputs that were let go and that it has not heard of.
        self._gone: dict[str, dict[str, None]] = {}
        self._flush_scheduled = False

    # ------------------------------------------------------------------ requests

    def submit(self, route: Route, request: Request, inputs: Sequence[EncoderInput]) -> None:
        """`inputs`: those of the request, in its order."""
        if self.workers is None:
            return
        for media in inputs:
            self.inputs.use(media.key, media.payload, request.id.number)
        try:
            request.encoder = self._send_ahead(route.encoder, inputs)
        except Exception as error:
            return self._not_sent(request, error)
        self._outbox.setdefault(route.decoder, []).append(request)
        self._flush_soon()

    def _send_ahead(self, encoder: str, inputs: Sequence[EncoderInput]) -> str:
        """Not to a second encoder: content is encoded once, mostly where it was sent first.

        Returns the encoder that most of the inputs were sent to, now or before; "" if none was.
        """
        holders: list[str] = []
        for media in inputs:
            is_full = self.inputs.bytes_sent(encoder) > AHEAD_BYTES
            if not is_full and not self.inputs.sent_to(media.key):
                self._send_one_ahead(encoder, media)
            holders += self.inputs.sent_to(media.key)
        if len(holders) == 1:  # of most requests: counting takes longer
            return holders[0]
        counts = Counter(holders)
        return max(counts, key=counts.__getitem__, default="")

    def _send_one_ahead(self, encoder: str, media: EncoderInput) -> None:
        if _is_short(media.payload):
            self._tell_of_the_last(encoder, media.key)
            self._short.setdefault((encoder, media.payload.dtype.str), []).append(media)
            self.inputs.note_sent(media.key, encoder)
        else:
            with suppress(PeerGone):  # the one that is asked for the work will ask for it
                self._send(encoder, Input(self.frontend, media.key, media.payload))

    def cancel(self, route: Route, request: Request) -> None:
        """Nobody waits for this attempt any more: its decoder ends it. Its inputs stay until
        `release`."""
        self._flush()  # the request must arrive before the message that cancels it
        self.try_send(route.decoder, Cancel(request.id))

    def stop(self, route: Route, request: Request) -> None:
        """The request's text met a stop string: its decoder ends it as done."""
        self.try_send(route.decoder, Stop(request.id))

    def ask(self, numbers: Mapping[str, list[int]]) -> None:
        """Asks decoders whether they have these requests, of which nothing was heard. What answers
        it may need this frontend's address, which may have been lost as well."""
        if self.workers is not None and numbers:
            self.workers.introduce()
            for decoder, of_decoder in numbers.items():
                self.try_send(decoder, StillOpen(self.frontend, of_decoder))

    def release(self, request: Request) -> None:
        """The request needs its inputs no longer."""
        for media in request.inputs:
            self.let_go(media.key, request.id.number)

    def send_input(self, encoder: str, key: str, array: np.ndarray) -> bool:
        """Sends an input, which is kept, to an encoder, unless it was sent there before. True if it
        is on its way."""
        is_sent = encoder in self.inputs.sent_to(key)
        return is_sent or self.try_send(encoder, Input(self.frontend, key, array))

    def let_go(self, key: str, user: int) -> None:
        """User number `user` needs the input no longer. Where it was its last one, all encoders
        that it was sent to are told: none of them knows whether a job for it is yet to come."""
        for encoder in self.inputs.release(key, user):
            if self.workers is not None:
                self._gone.setdefault(encoder, {})[key] = None
                self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._flush_scheduled:
            self._flush_scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_scheduled = False
        self._flush_inputs()
        outbox, self._outbox = self._outbox, {}  # a failing request must not be sent again
        for decoder, requests in outbox.items():
            self._send_requests(decoder, requests)

    def _flush_inputs(self) -> None:
        short, self._short = self._short, {}
        for (encoder, _), inputs in short.items():
            arrays = {media.key: media.payload for media in inputs}
            self.try_send(encoder, Inputs.of(self.frontend, arrays))
        gone, self._gone = self._gone, {}  # behind the inputs, which may be among them
        for encoder, keys in gone.items():
            self.try_send(encoder, InputGone(self.frontend, tuple(keys)))

    def _tell_of_the_last(self, encoder: str, key: str) -> None:
        """Before an input is sent anew: the word that it is gone must not come behind it."""
        if key in self._gone.get(encoder, ()):
            self._flush_inputs()

    def _send_requests(self, decoder: str, requests: list[Request]) -> None:
        """If a message fails, sends its requests one by one, so that a bad one fails alone."""
        if self.workers is None:
            return
        try:
            self._send(decoder, Submit(requests))
        except Exception as error:
            if len(requests) == 1:
                self._not_sent(requests[0], error)
            else:
                for request in requests:
                    self._send_requests(decoder, [request])

    def try_send(self, worker: str, message: Message) -> bool:
        """Sends a message whose loss its worker makes up for: it asks again, or ends a request
        later. False if it was not sent."""
        if self.workers is None:
            return False
        try:
            self._send(worker, message)
        except PeerGone:
            return False
        except Exception:  # what watches the worker tells the callers if it is unusable
            logger.exception("%s was not sent to %s", type(message).__name__, worker)
            return False
        return True

    def _send(self, worker: str, message: Message) -> None:
        assert self.workers is not None
        if isinstance(message, Input):
            self._tell_of_the_last(worker, message.key)
        self.workers.send(worker, message)
        if isinstance(message, Input):
            self.inputs.note_sent(message.key, worker)

    # ------------------------------------------------------------------ answers

    def answer(self, message: NeedInput) -> None:
        """Sends an encoder the inputs that it asks for, or tells it that they are gone."""
        if self.workers is None:
            return
        gone: list[str] = []
        for key in message.keys:
            if (array := self.inputs.get(key)) is None:
                gone.append(key)
            else:
                self.try_send(message.encoder, Input(self.frontend, key, array))
        if gone:
            self.try_send(message.encoder, InputGone(self.frontend, tuple(gone)))


def _is_short(array: np.ndarray) -> bool:
    """True if it can travel with others: plain numbers, and not many."""
    return array.ndim == 1 and array.nbytes <= PACKED_BYTES and array.dtype.kind in "iuf"
