"""Encoder work that one decoder replica has asked for.

Work is keyed by the content of its input, so that an input is encoded once, however many requests
wait for it. Its life:

    ask               an encoder worker is asked; the work takes room in the arena
      arrive          its hidden states are here; its waiting requests can be admitted
        consume       a step writes their cross KV: the work is done
        release       a step has put the last of them into a prompt; done when nobody else waits
      fail            the encoder could not do it: its waiting requests fail
      drop_overdue    nothing came for too long: likewise
      overdue         nothing came for some seconds: it is asked for once more
      set_encoders    its encoder is gone: its waiting requests ask again, elsewhere
      leave           its last waiting request ended. Work that is not done yet is withdrawn; its
                      encoder answers with `confirm_withdrawal`, or with the states all the same

Hidden states stay in the arena when their work is done, until other work needs the room (but for
those that an encoder may still write): who asks for them meanwhile has them at once. Each method
says what messages that come twice or late do.
"""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

from antiphon.scheduler.encode_work import Answers, EncodeCommand, Withdrawal, Work, by_lost_life
from antiphon.scheduler.encoder_pool import EncoderPool
from antiphon.scheduler.kept_states import KeptStates
from antiphon.scheduler.request import Incarnation, Media, Request

CHECK_SECONDS = 1.0  # between two checks for overdue work
ASK_AGAIN_SECONDS = 5.0  # without a sign of work: a message may have been lost


class EncodeLedger:
    """Encoder work that was asked for, and the requests that wait for it. `room`: tokens of hidden
    states that the arena holds. `timeout`: seconds after which work without a sign of its encoder
    is lost. `clock`: seconds, never set back. `counters` gets "encodes", "encodes_asked_again",
    "kept_states_hits", "lost_encodes", "withdrawn_encodes".
    """

    def __init__(
        self, room: int, timeout: float, clock: Callable[[], float], counters: Counter[str]
    ) -> None:
        self.kept, self.timeout = KeptStates(room), timeout
        self.tokens = 0  # of open work: asked for, and their cross KV not yet written
        self.blocked = 0  # of what nobody wants, whose place in the arena is not free yet
        self._clock, self._counters = clock, counters
        self._work: dict[str, Work] = {}
        self._opened = 0  # works since the start
        self._answers = Answers()
        self._next_check = self._next_asking = -math.inf
        self.pool = EncoderPool()
        self._unwanted: list[str] = []  # keys whose hidden states are here for nobody
        self._abandoned: list[str] = []  # keys whose last waiting request ended before they came

    def __contains__(self, key: str) -> bool:
        return key in self._work

    def has_arrived(self, key: str) -> bool:
        """True while the hidden states of `key` are here and their cross KV is not written."""
        return key in self._work and self._work[key].arrived

    def waiting(self, keys: Sequence[str]) -> list[Request]:
        """The requests that wait for any of `keys`, each once."""
        return list({request.id: request for key in keys for request in self.waiters(key)}.values())

    def waiters(self, key: str) -> Collection[Request]:
        """The requests that wait for `key`."""
        return self._work[key].waiters.values() if key in self._work else ()

    def allows(self, inputs: Sequence[Media]) -> bool:
        """True if the arena has room for those of `inputs` that no work is open for. While no work
        is open at all, the inputs of one request may have any size. False if an encoder is needed
        and there is none, and for a suspect while another is on trial."""
        new = {media.key: media.num_tokens for media in inputs if media.key not in self._work}
        if not new:
            return True
        not_here = [key for key in new if key not in self.kept]
        if not_here and not self.pool.takes(not_here):
            return False
        taken = self.tokens + self.blocked
        return not taken or taken + sum(new.values()) <= self.kept.room

    # ------------------------------------------------------------------ asking and waiting

    def ask(self, media: Media, holder: str) -> EncodeCommand | None:
        """Opens work for `media`, for which there is none and which `allows` allowed. `holder`: the
        encoder that its input was sent to, if it was. None if its hidden states are here."""
        assert media.key not in self._work
        self._opened += 1
        self.tokens += media.num_tokens
        now = self._clock()
        if self.kept.pop(media.key):
            self._counters["kept_states_hits"] += 1
            self._work[media.key] = Work(media, "", None, self._opened, now, now, arrived=True)
            return None
        self._unwanted += self.kept.make_room(self.tokens + self.blocked)
        chosen = self.pool.pick(media, holder)
        self._counters["encodes"] += 1
        epoch = None if self.pool.epochs is None else self.pool.epochs[chosen]
        self._work[media.key] = Work(media, chosen, epoch, self._opened, now, now)
        self.pool.suspects.start(media.key)
        self.pool.ask(chosen, media.num_tokens)
        return EncodeCommand(media, chosen)

    def join(self, request: Request, media: Media) -> bool:
        """Lets `request` wait for the open work of `media`; True if that has arrived already."""
        work = self._work[media.key]
        work.waiters[request.id] = request
        return work.arrived

    def leave(self, request: Request) -> None:
        """`request` has ended, and waits no longer if it did."""
        for media in request.inputs:
            self.let_go(request, media.key)

    def is_waiting(self, request: Request, key: str) -> bool:
        """True if it joined the open work of `key`."""
        return key in self._work and request.id in self._work[key].waiters

    def let_go(self, request: Request, key: str) -> None:
        """`request` needs the hidden states of `key` no longer, if it waited for them."""
        work = self._work.get(key)
        if work is None:
            self.pool.suspects.end(key)
        elif work.waiters.pop(request.id, None) is not None and not work.waiters:
            if work.arrived:
                self._close(key)
            else:
                self._abandoned.append(key)

    def release(self, request: Request, key: str) -> bool:
        """`request` has hidden states of `key` in its prompt, and computes the last of them in a
        step. True if nobody else needs them: the work is done."""
        work = self._work[key]
        del work.waiters[request.id]
        if not work.waiters:
            self._close(key)
        return not work.waiters

    def consume(self, key: str) -> None:
        """A step writes the cross KV of `key`: the work is done."""
        self._close(key)

    # ------------------------------------------------------------------ answers

    def expects(self, key: str) -> bool:
        """True if the arena has room for the hidden states of `key`, and they are not here."""
        return key in self._work and not self._work[key].arrived

    def arrive(self, key: str, is_written: bool = False) -> list[Request]:
        """Hidden states of `key` are here; returns the requests that waited for them. Changes
        nothing for states that `expects` did not expect. `is_written`: an encoder was asked for
        them too, and may write them again. They would make no room for others, and are not kept."""
        work = self._work.get(key)
        if work is None or work.arrived:
            return []
        self._answers.note(work, self._clock())
        self.pool.answer(work.encoder, work.media.num_tokens)
        work.arrived, work.is_written = True, is_written
        self.pool.suspects.end(key)
        if not work.waiters:
            self._close(key)
        return list(work.waiters.values())

    def fail(self, key: str, sender: Incarnation | None = None) -> list[Request]:
        """The encoder could not do `key`; closes the work and returns the requests that waited.
        Changes nothing where no work is open, where the states came another way, or where somebody
        else than `sender` was asked."""
        work = self._work.get(key)
        if work is None or work.arrived or not work.is_asked_of(sender):
            return []
        self._answers.note(work, self._clock())
        return self._close(key)

    def confirm_withdrawal(self, key: str, sender: Incarnation | None = None) -> list[Request]:
        """The encoder had not begun `key`, and will not. Closes the work and returns the requests
        that joined it meanwhile: it must be asked for again. Changes nothing where no withdrawal
        is open (a message that came twice or too late), or where somebody else than `sender` was
        asked."""
        work = self._work.get(key)
        if work is None or not work.withdrawn or work.arrived or not work.is_asked_of(sender):
            return []
        self._answers.note_life(work.encoder, self._clock())
        self._counters["withdrawn_encodes"] += 1
        return self._close(key)

    def _close(self, key: str, is_over: bool = True) -> list[Request]:
        """`is_over`: what is known of its deaths may go."""
        if is_over:
            self.pool.suspects.end(key)
        work = self._work.pop(key)
        self.tokens -= work.media.num_tokens
        if work.arrived and not work.is_written:
            self.kept.add(key, work.media.num_tokens)
        else:
            self._unwanted.append(key)  # an encoder may have been given rows for it
        if not work.arrived:
            self.pool.answer(work.encoder, work.media.num_tokens)
        return list(work.waiters.values())

    # ------------------------------------------------------------------ lost and unwanted work

    def set_encoders(self, epochs: Mapping[str, int]) -> tuple[list[Request], list[Request]]:
        """The encoders that take work, and the epoch of each. Closes the work of lives that are
        over, or that were not known when they were asked, and may have been others. Returns the
        requests that waited, and those that are given up: their input killed an encoder twice (see
        `Suspects`)."""
        waiting: list[Request] = []
        given_up: list[Request] = []
        lost = by_lost_life(self._work, self.pool.epochs or {}, epochs)
        for (encoder, epoch), keys in lost.items():
            culprit = None if epoch is None else self.pool.culprit(encoder, keys)
            if culprit is not None:
                self._counters["lost_encodes"] += 1
                given_up += self._close(culprit)
            waiting += self._lose(encoder, [key for key in keys if key != culprit])
        self.pool.set_epochs(epochs)
        return waiting, given_up

    def leave_encoder(self, encoder: str) -> list[Request]:
        """It takes no messages, which does not tell that it is dead: its work is closed, and it is
        asked no more until there is news of it. Returns the requests that waited."""
        epochs = dict(self.pool.epochs or {})
        epochs.pop(encoder, None)
        lost = by_lost_life(self._work, {}, epochs)
        self.pool.set_epochs(epochs)
        return self._lose(encoder, [*itertools.chain(*lost.values())])

    def _lose(self, encoder: str, keys: Sequence[str]) -> list[Request]:
        """Closes work that is lost with its encoder, and returns the requests that waited."""
        self._answers.forget(encoder)
        self._counters["lost_encodes"] += len(keys)
        return [*itertools.chain(*(self._close(key, not self._work[key].waiters) for key in keys))]

    def drop_overdue(self) -> list[tuple[str, list[Request]]]:
        """Closes work whose hidden states will not come: a message was lost, or its worker hangs.
        Returns an error for each, with the requests that waited. Work that its encoder has passed
        over, or whose encoder says nothing at all, is lost after `timeout` (see `Answers`)."""
        now = self._clock()
        if now < self._next_check:
            return []
        self._next_check = now + CHECK_SECONDS
        lost: list[tuple[str, list[Request]]] = []
        for key, work in list(self._work.items()):
            if not work.arrived and now - self._answers.silent_since(work) > self.timeout:
                self._counters["lost_encodes"] += 1
                lost.append((work.overdue_error(self.timeout), self._close(key)))
        return lost

    def overdue(self) -> list[EncodeCommand]:
        """Work to ask for once more now. Encoders are not asked for what is in line there as long
        as they answer. What nobody waits for is withdrawn once more (see `pop_withdrawals`)."""
        now = self._clock()
        if now < self._next_asking:
            return []
        self._next_asking = now + CHECK_SECONDS
        commands: list[EncodeCommand] = []
        for key, work in self._work.items():
            if work.arrived or now - work.asked_at <= ASK_AGAIN_SECONDS:
                continue
            if now - self._answers.silent_since(work) <= ASK_AGAIN_SECONDS:
                continue
            work.asked_at = now
            self._counters["encodes_asked_again"] += 1
            if work.waiters:
                commands.append(EncodeCommand(work.media, work.encoder))
            else:
                work.withdrawn = False
                self._abandoned.append(key)
        return commands

    def add_unwanted(self, keys: set[str]) -> None:
        """Hidden states of `keys` may be unusable, and no step will take them."""
        for key in keys:
            self.kept.pop(key)
        self._unwanted += keys

    def pop_unwanted(self) -> list[str]:
        """Keys whose hidden states are to be dropped from the arena, since the last call."""
        keys, self._unwanted = self._unwanted, []
        return [key for key in keys if not self.has_arrived(key)]  # may have been asked for again

    def pop_withdrawals(self) -> list[Withdrawal]:
        """Work that nobody waits for any more, since the last call.

        Until the encoder answers, the work stays open, and a request for the same content joins it:
        so there is never more than one answer to come. That is one of `arrive`, `fail` and
        `confirm_withdrawal`.
        """
        keys, self._abandoned = self._abandoned, []
        withdrawals: list[Withdrawal] = []
        for key in dict.fromkeys(keys):
            work = self._work.get(key)
            if work is not None and not (work.waiters or work.arrived or work.withdrawn):
                work.withdrawn = True
                withdrawals.append(Withdrawal(key, work.encoder))
        return withdrawals
