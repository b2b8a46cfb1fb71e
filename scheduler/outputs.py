"""What a decoder's scheduler has to tell its frontends: one `StepOutput` for each, once a step."""

import itertools
from dataclasses import dataclass, field

import numpy as np

from antiphon.config.decoding_rules import DecodingRules
from antiphon.scheduler.alignment import AlignedSequence, aligned_sequence
from antiphon.scheduler.request import (
    Finished,
    Incarnation,
    Request,
    RequestId,
    RequestMetrics,
    RequestState,
)


@dataclass(frozen=True, eq=False)
class HeldEnd:
    """The end of a request that is done but for its alignment. `token_ids`: those to align."""

    id: RequestId
    finished: Finished
    sequence: AlignedSequence
    token_ids: np.ndarray
    rules: DecodingRules


@dataclass
class StepOutput:
    """What a decoder tells one frontend: new tokens of streaming requests, and ended requests.

    A token comes with its place among the tokens that its request generated, so that
    one that comes twice does no harm, and one that is missing is noticed.
    """

    frontend: str
    sender: Incarnation = Incarnation("", 0)  # set by the worker that sends it
    delta_numbers: list[int] = field(default_factory=list)  # of the requests, one for each token
    delta_positions: list[int] = field(default_factory=list)  # among the generated tokens, from 0
    delta_tokens: list[int] = field(default_factory=list)
    finished: list[Finished] = field(default_factory=list)


class Outputs:
    """Tokens and ends since the last `pop`, by frontend. `max_seqs`: slots of the batch."""

    def __init__(self, max_seqs: int) -> None:
        self._numbers = np.zeros(max_seqs, np.int64)  # of the requests in the slots
        self._frontends = np.zeros(max_seqs, np.int64)  # keys of `_names`
        self._names: dict[int, str] = {}
        self._indices: dict[str, int] = {}  # the other way round
        self._next_index = itertools.count()
        self._outputs: dict[str, StepOutput] = {}
        self._unaligned: list[HeldEnd] = []
        self.held: dict[RequestId, HeldEnd] = {}  # all ends that are held back

    def admit(self, request: Request) -> None:
        """`request` has a slot from now on."""
        frontend = request.id.frontend
        if (index := self._indices.get(frontend)) is None:
            self._indices[frontend] = index = next(self._next_index)
            self._names[index] = frontend
        self._numbers[request.slot] = request.id.number
        self._frontends[request.slot] = index

    def add_tokens(self, slots: np.ndarray, positions: np.ndarray, tokens: np.ndarray) -> None:
        """`tokens` [n] of streaming requests in `slots` [n], at `positions` [n] among
        the tokens that each generated."""
        owners = self._frontends[slots]
        for index in set(owners.tolist()):
            rows = owners == index
            output = self._of(self._names[index])
            output.delta_numbers += self._numbers[slots[rows]].tolist()
            output.delta_positions += positions[rows].tolist()
            output.delta_tokens += tokens[rows].tolist()

    def add_end(self, request: Request, finished: Finished, slot: int = -1) -> None:
        """`slot`: that it had until now, -1: none. An end that needs an alignment is held back
        until `send_held`. Without a slot it has none; nor has what a beam search found, whose
        pages other sequences have overwritten."""
        alignment, is_done = request.alignment, finished.state is RequestState.DONE
        if alignment is None or slot < 0 or not is_done or request.rules.beams is not None:
            self._of(request.id.frontend).finished.append(finished)
            return
        token_ids, rules = request.token_ids, request.rules
        sequence = aligned_sequence(slot, token_ids, alignment, rules)
        own = token_ids[alignment.first :]
        end = HeldEnd(request.id, finished, sequence, own, rules)
        self._unaligned.append(end)
        self.held[request.id] = end

    @property
    def num_unaligned(self) -> int:
        return len(self._unaligned)

    def pop_unaligned(self) -> list[HeldEnd]:
        """Ends held back since the last call."""
        ends, self._unaligned = self._unaligned, []
        return ends

    def send_held(self, end: HeldEnd) -> None:
        """Its alignment is known. Nothing is sent to a frontend that is gone."""
        if self.held.pop(end.id, None) is not None:
            self._of(end.id.frontend).finished.append(end.finished)

    def pop(self) -> list[StepOutput]:
        """What happened since the last call: nothing, or one output for each frontend concerned."""
        outputs, self._outputs = self._outputs, {}
        return list(outputs.values())

    def forget(self, frontend: str) -> None:
        """It is gone, with all its requests."""
        self._outputs.pop(frontend, None)
        if (index := self._indices.pop(frontend, None)) is not None:
            del self._names[index]
        self.held = {id_: end for id_, end in self.held.items() if id_.frontend != frontend}

    def _of(self, frontend: str) -> StepOutput:
        output = self._outputs.get(frontend)
        if output is None:
            output = self._outputs[frontend] = StepOutput(frontend)
        return output


def failed_output(request_id: RequestId, error: str) -> StepOutput:
    """The end of a request that never became one here."""
    metrics = RequestMetrics(0.0)
    finished = Finished(request_id.number, RequestState.FAILED, [], None, error, [], metrics)
    return StepOutput(request_id.frontend, finished=[finished])
