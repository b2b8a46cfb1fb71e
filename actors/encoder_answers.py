"""What an encoder worker answers to those that want hidden states."""

import time

from antiphon.actors.frames import MessageError
from antiphon.actors.links import Links
from antiphon.actors.messages import EncodeFailed, EncodeJob, EncoderAnswer
from antiphon.actors.undelivered import Undelivered
from antiphon.kv.handoff import HiddenStates
from antiphon.scheduler.request import Incarnation


class EncoderAnswers:
    """For the thread of the worker `incarnation`. No call blocks."""

    def __init__(self, incarnation: Incarnation, links: Links) -> None:
        self._incarnation, self._links = incarnation, links
        self._undelivered = Undelivered()

    def send(self, decoder: str, message: EncoderAnswer) -> None:
        """Keeps what is for a decoder that is not known: news of a new one may come later than its
        first jobs."""
        try:
            if not self._links.send(decoder, message):
                self._undelivered.add(decoder, message, time.monotonic())
        except MessageError as error:
            if not isinstance(message, HiddenStates):
                raise
            for key in message.keys:
                text = f"its hidden states cannot travel: {error}"
                self.send(decoder, EncodeFailed(key, text, False, self._incarnation))

    def send_kept(self) -> None:
        """What was kept for decoders that are known by now."""
        for decoder, message in self._undelivered.due(self._links, time.monotonic()):
            self.send(decoder, message)

    def fail(self, job: EncodeJob, error: str, input_gone: bool = False) -> None:
        arena, ticket = ("", 0) if job.place is None else (job.place.arena, job.place.ticket)
        failed = EncodeFailed(job.key, error, input_gone, self._incarnation, ticket, arena)
        self.send(job.decoder, failed)

    def fail_gone(self, jobs: list[EncodeJob]) -> None:
        for job in jobs:
            self.fail(
                job, "its input is gone: no frontend that asked for it holds it any more", True
            )
