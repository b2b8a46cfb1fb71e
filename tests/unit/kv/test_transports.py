"""When each transport sends what was queued."""

import pytest
import torch

from antiphon.kv.handoff import HiddenStates
from antiphon.kv.transports import transport_to
from antiphon.kv.transports.frames import Arrivals

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


def test_states_that_arrive_where_they_are_used_stay_as_they_are() -> None:
    assert Arrivals(CPU).on_device(arrived := states("a")) is arrived


@pytest.mark.gpu
def test_from_gpu_to_gpu_by_way_of_the_host() -> None:
    device, sent = torch.device("cuda"), []
    transport, arrivals = transport_to(False, sent.append, device), Arrivals(device)
    packed = torch.randn(1000, 64, device=device)
    transport.queued(HiddenStates(("a",), (1000,), packed))
    transport.computed()
    assert sent[0].packed.is_pinned()
    arrived = arrivals.on_device(sent[0])
    assert arrived.ready is not None
    arrived.ready.synchronize()
    assert arrived.computed
    assert torch.equal(arrived.packed, packed)
