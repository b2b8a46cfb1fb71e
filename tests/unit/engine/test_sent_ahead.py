"""Inputs that go ahead to an encoder: none stays there when no open request needs it."""

import asyncio

from dispatching import ROUTE, Sent, in_loop, request, sound

from antiphon.actors.encoder_jobs import EncoderJobs
from antiphon.actors.messages import EncodeJob, Input, InputGone, Message, NeedInput
from antiphon.engine.dispatch import Dispatcher


class OneEncoder(Sent):
    """The real table of an encoder, which gets what is sent to it."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs = EncoderJobs(batch_tokens=1000, store_bytes=1_000_000)

    def send(self, worker: str, message: Message) -> None:
        super().send(worker, message)
        match message:
            case Input():
                self.jobs.receive(message)
            case InputGone():
                assert self.jobs.gone(message) == []

    def encode(self, *keys: str) -> None:
        self.jobs.add([EncodeJob(key, 10, "decoder-0", ("f",)) for key in keys])
        jobs, _ = self.jobs.next_batch()
        assert [job.key for job in jobs] == list(keys)
        self.jobs.end(jobs)


def made() -> tuple[Dispatcher, OneEncoder]:
    dispatcher, encoder = Dispatcher("f", lambda request, error: None), OneEncoder()
    dispatcher.workers = encoder  # type: ignore[assignment]
    return dispatcher, encoder


@in_loop
async def test_pictures_of_earlier_turns_of_a_chat_do_not_fill_an_encoder() -> None:
    """Their states are in the decoder: nobody asks for them, though the newest one is encoded."""
    dispatcher, encoder = made()
    for turn in range(10):
        keys = [f"picture {turn - 1}", f"picture {turn}"]
        dispatcher.submit(ROUTE, each := request(turn, *keys), [sound(key) for key in keys])
        encoder.encode(keys[1])
        dispatcher.release(each)
        await asyncio.sleep(0)
        assert encoder.jobs.bytes_held == 0


@in_loop
async def test_a_copy_that_comes_when_its_job_is_done_does_not_stay() -> None:
    dispatcher, encoder = made()
    dispatcher.submit(ROUTE, each := request(0), [media := sound()])
    encoder.encode("k")
    dispatcher.answer(NeedInput("encoder-0", ("k",)))
    assert encoder.jobs.bytes_held == media.payload.nbytes
    dispatcher.release(each)
    await asyncio.sleep(0)
    assert encoder.jobs.bytes_held == 0
