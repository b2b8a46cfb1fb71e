"""What a decoder worker asks encoders for, and takes back."""

from collections.abc import Callable

from antiphon.actors.arena_places import ArenaPlaces
from antiphon.actors.links import Links
from antiphon.actors.messages import Encode, EncodeJob, Withdraw, Withdrawn
from antiphon.scheduler.encode_work import EncodeCommand, Withdrawal
from antiphon.scheduler.request import Incarnation, Media
from antiphon.scheduler.scheduler import Scheduler


class EncodeAsks:
    """For the thread of the decoder worker `name`. `confirm` handles what no encoder can answer."""

    def __init__(
        self,
        name: str,
        scheduler: Scheduler,
        links: Links,
        places: ArenaPlaces,
        confirm: Callable[[Withdrawn], None],
    ) -> None:
        self._name, self._scheduler, self._links = name, scheduler, links
        self._places, self._confirm = places, confirm

    def ask(self, work: list[EncodeCommand], again: bool = False) -> None:
        """Requests the hidden states of media from their encoders. `again`: for the second time,
        because nothing was heard of them."""
        for encoder in {command.encoder for command in work}:
            life = self._life(encoder)
            writes = life is not None and self._may_write(encoder)
            jobs = [
                self._job(media, encoder, life if writes else None)
                for media, name in work
                if name == encoder
            ]
            message = Encode(jobs, again)
            if life is not None and any(job.place for job in jobs):
                message = Encode(jobs, again, self._places.export, life.epoch)
            if not self._links.send(encoder, message):
                self._forget(message, life)
                self._scheduler.encoder_lost(encoder)

    def _may_write(self, encoder: str) -> bool:
        links = self._links
        return links.is_apart(encoder) and self._places.may_write(links.is_near(encoder))

    def _life(self, encoder: str) -> Incarnation | None:
        """The present one; None if nobody has told of it."""
        epochs = self._scheduler.encodes.pool.epochs or {}
        return Incarnation(encoder, epochs[encoder]) if encoder in epochs else None

    def _job(self, media: Media, encoder: str, writer: Incarnation | None) -> EncodeJob:
        encodes = self._scheduler.encodes
        requests = encodes.waiters(media.key)
        return EncodeJob(
            media.key,
            media.num_tokens,
            self._name,
            frontends=tuple(dict.fromkeys([request.id.frontend for request in requests])),
            sent_ahead=encoder in [request.encoder for request in requests],
            place=None if writer is None else self._places.place(media, writer),
            trial=encodes.pool.suspects.is_suspect(media.key),
        )

    def _forget(self, message: Encode, life: Incarnation | None) -> None:
        """It was not sent: nobody will write to its places."""
        for job in message.jobs:
            if job.place is not None:
                self._places.answered([job.key], [job.place.ticket], life, job.place.arena)

    def withdraw(self, withdrawals: list[Withdrawal]) -> None:
        """Withdraws keys from their encoders."""
        for encoder in {withdrawal.encoder for withdrawal in withdrawals}:
            keys = tuple(key for key, name in withdrawals if name == encoder)
            if not self._take_back(encoder, keys, self._life(encoder)):
                self._confirm(Withdrawn(keys))

    def _take_back(self, encoder: str, keys: tuple[str, ...], life: Incarnation | None) -> bool:
        """As `Links.send`. `life`: the one that may write to places of `keys`."""
        places = self._places
        if life is None or places.export is None:
            return self._links.send(encoder, Withdraw(self._name, keys))
        tickets, arena = places.tickets(keys, life), places.export.name
        return self._links.send(encoder, Withdraw(self._name, keys, tickets, arena))

    def ask_overdue(self) -> None:
        """Asks once more for media whose encoder has not answered in time. Withdraws, perhaps once
        more, what encoders may still write though nobody wants it."""
        if overdue := self._scheduler.encodes.overdue():
            self.ask(overdue, again=True)
        for encoder, keys in self._places.late():
            self._take_back(encoder.name, keys, encoder)
