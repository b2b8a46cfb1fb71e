"""The ends of requests that asked for an alignment: held back until it is known."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from antiphon.config.errors import describe
from antiphon.decoder.alignment import LaunchedAlignments
from antiphon.decoder.other_ranks import OtherRanks
from antiphon.decoder.rank_commands import Align
from antiphon.decoder.runner import DecoderRunner
from antiphon.runtime.ranks import RankError
from antiphon.scheduler.alignment import frames_of_all
from antiphon.scheduler.outputs import HeldEnd, Outputs
from antiphon.scheduler.request import RequestState


@dataclass(frozen=True)
class _InFlight:
    ends: list[HeldEnd]
    launched: LaunchedAlignments


class AlignedEnds:
    """Of one replica, in its leader. `catch_up` launches what other ranks do."""

    def __init__(
        self,
        runner: DecoderRunner,
        outputs: Outputs,
        others: OtherRanks,
        catch_up: Callable[[], None],
    ) -> None:
        self._runner, self._outputs, self._others = runner, outputs, others
        self._catch_up = catch_up
        self._in_flight: deque[_InFlight] = deque()  # oldest first

    def __len__(self) -> int:
        return len(self._in_flight) + self._outputs.num_unaligned

    def begin(self) -> None:
        """Launches what was asked by requests that have ended. Before the next step is
        launched: that may give their pages away."""
        ends = self._outputs.pop_unaligned()
        if not ends:
            return
        command = Align(tuple(end.sequence for end in ends))
        self._others.tell(command)
        self._catch_up()
        aligner = self._runner.aligner
        assert aligner is not None, "the scheduler refuses what needs one"
        try:
            self._in_flight.append(_InFlight(ends, aligner.launch(command.sequences)))
        except Exception as error:  # whatever the device raised
            self._fail(ends, error)

    def collect(self, wait: bool) -> None:
        """Sends the ends whose alignment is known; with `wait`, all of them."""
        while self._in_flight and (wait or self._in_flight[0].launched.ready):
            one = self._in_flight.popleft()
            try:
                frames = one.launched.frames()
            except Exception as error:
                self._fail(one.ends, error)
                continue
            for end, own in zip(one.ends, frames, strict=True):
                end.finished.frames = frames_of_all(end.token_ids, end.rules, own)
                self._outputs.send_held(end)

    def _fail(self, ends: list[HeldEnd], error: Exception) -> None:
        """Raises what the device raises if it is of no more use, and RankError where
        other ranks may have gone on."""
        if self._others.exist:
            raise RankError(f"an alignment failed: {describe(error)}") from error
        for end in ends:
            end.finished.state = RequestState.FAILED
            end.finished.reason = None
            end.finished.error = f"its words could not be aligned: {describe(error)}"
            self._outputs.send_held(end)
        self._runner.probe()
