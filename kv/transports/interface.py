"""What an encoder worker needs of a way to a decoder."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from antiphon.kv.handoff import HiddenStates, Place

# Whether states that had to be sent on are with the decoder by now; None where they are at once.
Sent = Callable[[], bool] | None


class Transport(ABC):
    """To one decoder worker, which neither method waits for. `queued` does not wait for
    the device either."""

    @abstractmethod
    def queued(self, states: HiddenStates, places: Sequence[Place] = ()) -> None:
        """The computation of `states` is queued on the current stream. `places`: of
        each key, in a decoder's arena that is mapped here."""

    @abstractmethod
    def computed(self) -> Sent:
        """The states that were queued first, of those not computed yet, are so now; and
        what `queued` queued behind them."""
