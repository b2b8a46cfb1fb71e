"""An open request as its frontend knows it: one for its caller, however often it is sent."""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from antiphon.config.errors import RequestError
from antiphon.engine.deadline import LEAST_SECONDS
from antiphon.inputs.detokenizer import TextStream
from antiphon.inputs.prepared import EncoderInput
from antiphon.scheduler.request import (
    Finished,
    Incarnation,
    Media,
    Request,
    RequestId,
    RequestMetrics,
    RequestState,
    Trial,
)
from antiphon.scheduler.router import Route


@dataclass(eq=False)
class OpenRequest:
    """`request`: the present attempt. `inputs`: those of its encoders, kept until its end.

    `is_stream`: its caller gets the text as it comes, so that an attempt goes on behind the tokens
    that are known. Others begin anew, which gives the same tokens. `new_text`: of requests that
    stream or have stop strings. `updated`: set when there is new text, and at the end. `token_ids`:
    the generated tokens that have come so far, stop tokens included.
    """

    request: Request
    inputs: Sequence[EncoderInput]
    future: asyncio.Future[Finished]
    is_stream: bool = False
    new_text: Callable[[], TextStream] | None = None
    arrived_at: float = 0.0  # Unix time
    timeout: float | None = None  # seconds, of all attempts together
    end_time: float = math.inf  # when they are over, of the event loop's clock
    text: TextStream | None = None
    updated: asyncio.Event = field(default_factory=asyncio.Event)
    token_ids: list[int] = field(default_factory=list)
    is_open: bool = True
    gaps: int = 0  # times that messages about it were lost
    timer: asyncio.TimerHandle | None = None  # ends it after `end_time`
    waiter: asyncio.Future[None] | None = None  # of its caller: cancelled with that, not `future`

    # Of the present attempt, while it is in flight.
    route: Route | None = None
    worker: Incarnation | None = None  # the decoder's
    sent_at: float = 0.0  # Unix time
    progress: tuple[int, int] = (-1, 0)  # number of the attempt and tokens, at the last check

    def __post_init__(self) -> None:
        self.text = self.new_text() if self.new_text is not None else None

    def begin_again(self, request_id: RequestId, now: float) -> None:
        """A new attempt, not in flight yet: of a stream behind its tokens, of others anew. `now`:
        of the event loop's clock."""
        if not self.is_stream:
            self.token_ids = []
            self.text = self.new_text() if self.new_text is not None else None
        self.route = self.worker = None
        request = self.request
        if self.text is not None and self.text.stopped:  # nothing is missing but the end itself
            request = replace(request, max_tokens=len(self.token_ids))
        self.request = replace(
            request,
            id=request_id,
            attempt=request.attempt + 1,
            timeout=None if self.timeout is None else max(LEAST_SECONDS, self.end_time - now),
            # What is to be aligned must run here: its last token is sampled once more.
            generated=self.token_ids[: -1 if request.alignment else None],
            state=RequestState.WAITING,
            order=-1,
            slot=-1,
            inputs_gone=0,
            trial=Trial.NONE,
            token_logprobs=[],
            restricted_logprob=0.0,
            logprobs=[],
            readout_values={},
            hypotheses=[],
            metrics=RequestMetrics(0.0),
        )

    def metrics(self, of_worker: RequestMetrics) -> RequestMetrics:
        """In Unix times, from those that a worker measured."""
        metrics = of_worker.shifted(self.sent_at)
        metrics.arrived_at = self.arrived_at
        return metrics

    async def end(self) -> Finished:
        """Waits for it, for one caller; one that is cancelled leaves the request as it is. Raises
        the RequestError that it failed with."""
        if not self.future.done():  # `asyncio.shield` would take two more turns of the loop
            assert self.waiter is None or self.waiter.done(), "somebody waits for it already"
            self.waiter = self.future.get_loop().create_future()
            await self.waiter
        return self.future.result()

    def finish(self, finished: Finished) -> None:
        self._close()
        if not self.future.done():
            self.future.set_result(finished)
        self._tell_caller()

    def fail(self, error: RequestError) -> None:
        self._close()
        if not self.future.done():
            self.future.set_exception(error)
            self.future.exception()  # marks it as retrieved: its caller may have left
        self._tell_caller()

    def _tell_caller(self) -> None:
        self.updated.set()
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def _close(self) -> None:
        """What is large is let go, whoever still holds this object."""
        self.is_open = False
        self.inputs = ()
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


OnEnd = Callable[[OpenRequest, asyncio.Future[Finished]], None]


def without_payload(media: EncoderInput) -> Media:
    """As a request carries it: payloads go to encoders alone."""
    return Media(
        media.key,
        media.kind,
        media.num_tokens,
        position=media.position,
        grid=media.grid,
        token=media.token,
        shown=media.shown,
        keep=media.keep,
    )
