"""Chooses the encoder of each piece of work, when a decoder replica asks for it."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from antiphon.scheduler.request import Media
from antiphon.scheduler.sketch import fingerprint
from antiphon.scheduler.suspects import Suspects
from antiphon.scheduler.trials import trial_mark
from antiphon.scheduler.worker_load import WorkerLoad, WorkerState


class EncoderPool:
    """The encoders that one decoder replica may ask, and how long their queues are.

    A queue, in encoder tokens, is what its encoder reported last, with what this
    replica has asked it for and got from it since; and never less than what this
    replica still waits for. `epochs`: of the encoders that take work; None: nobody has
    told of them, and any name will do.
    """

    def __init__(self) -> None:
        self.epochs: dict[str, int] | None = None
        self.suspects: Suspects[str] = Suspects(trial_mark)  # keys of inputs
        self._told: dict[str, int] | None = None  # epochs, as the supervisor said last
        self._workers: dict[str, WorkerLoad] = {}
        self._asked: Counter[str] = Counter()  # tokens asked for and not answered, by encoder

    def set_epochs(self, epochs: Mapping[str, int]) -> None:
        self.epochs = dict(epochs)
        for name, worker in list(self._workers.items()):
            if epochs.get(name) != worker.state.epoch:  # nothing of its last life is left
                del self._workers[name]

    def report(self, states: Iterable[WorkerState]) -> dict[str, int] | None:
        """What the supervisor says of all encoders. One that is draining is asked only
        where there is no other.

        Returns the epochs of those that live, if they have changed since it last said
        so or if none is left here. News of loads alone must not bring back an encoder
        that could not be reached meanwhile, as long as there are others.
        """
        told: dict[str, int] = {}
        for state in states:
            worker = self._workers.get(state.name)
            if worker is None or worker.state.epoch != state.epoch:
                self._workers[state.name] = WorkerLoad(state)
            else:
                worker.update(state)
            if state.alive:
                told[state.name] = state.epoch
        before, self._told = self._told, told
        return None if told == before and self.epochs else told

    def takes(self, keys: Iterable[str]) -> bool:
        """False while no encoder can be asked, or a suspect among `keys` waits for its trial."""
        is_empty = self.epochs is not None and not self.epochs
        return not is_empty and all(map(self.suspects.may_start, keys))

    def pick(self, media: Media, holder: str) -> str:
        """The encoder to ask for `media`, of which there is one at least.

        That is `holder`, which its input was sent to, or one that has reported that it
        has it, unless its queue is longer than the shortest one by more than the input
        itself. To move the input costs one more message, to wait behind an equal one as
        long as encoding it.
        """
        if self.epochs is None:
            return holder
        if len(self.epochs) == 1:
            return next(iter(self.epochs))
        open_ones = [name for name in self.epochs if not self._is_draining(name)]
        names = open_ones or list(self.epochs)
        shortest = min(names, key=self.queue)
        limit = self.queue(shortest) + media.num_tokens
        held = fingerprint(media.key)
        holders = [
            name
            for name in names
            if (name == holder or self._has_reported(name, held)) and self.queue(name) <= limit
        ]
        return holder if holder in holders else min(holders, key=self.queue, default=shortest)

    def queue(self, name: str) -> float:
        """Encoder tokens."""
        worker = self._workers.get(name)
        return max(self._asked[name], 0.0 if worker is None else worker.load)

    def ask(self, name: str, num_tokens: int) -> None:
        """So much work was asked for."""
        self._asked[name] += num_tokens
        if (worker := self._workers.get(name)) is not None:
            worker.add(num_tokens)

    def answer(self, name: str, num_tokens: int) -> None:
        """So much of it was answered, or will not be."""
        self._asked[name] -= num_tokens
        if (worker := self._workers.get(name)) is not None:
            worker.remove(num_tokens)

    def culprit(self, name: str, keys: Sequence[str]) -> str | None:
        """Which of `keys`, that it was asked for, is to be given up because of the
        death of an encoder (see `Suspects`). Before `set_epochs` without it."""
        if self._is_draining(name):  # its end was wanted
            return None
        load = self._workers[name].state.last_load if name in self._workers else {}
        return self.suspects.died(keys, load)

    def _is_draining(self, name: str) -> bool:
        return name in self._workers and self._workers[name].state.draining

    def _has_reported(self, name: str, held: int) -> bool:
        return name in self._workers and held in self._workers[name].held
