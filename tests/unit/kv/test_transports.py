"""When each transport sends what was queued."""

import torch

from antiphon.kv.handoff import HiddenStates
from antiphon.kv.transports import transport_to

CPU = torch.device("cpu")


def states(key: str) -> HiddenStates:
    return HiddenStates((key,), (2,), torch.zeros(2, 3))


def test_a_decoder_in_this_process_gets_states_that_are_still_computed() -> None:
    sent: list[HiddenStates] = []
    transport = transport_to(True, sent.append, CPU)
    transport.queued(first := states("a"))
    assert sent == [first]
    transport.computed()
    assert sent == [first]


def test_other_processes_get_states_when_they_are_computed_in_their_order() -> None:
    sent: list[HiddenStates] = []
    transport = transport_to(False, sent.append, CPU)
    transport.queued(first := states("a"))
    transport.queued(second := states("b"))
    assert sent == []
    transport.computed()
    assert sent == [first]
    transport.computed()
    assert sent == [first, second]
