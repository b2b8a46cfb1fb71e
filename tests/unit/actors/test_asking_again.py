"""Workers answer who asks again, and tell at once what must not be lost with them."""

from typing import Any

import pytest
from worker_system import System, running_system

from antiphon.actors.messages import Encode, NotOpen, StillOpen, Submit
from antiphon.scheduler import encodes
from antiphon.scheduler.request import Incarnation, RequestId, Trial
from antiphon.scheduler.trials import trial_mark

Patch = pytest.MonkeyPatch


@pytest.fixture
def system(checkpoints: Any) -> Any:
    folder, _ = checkpoints("t5")
    with running_system(folder) as system:
        yield system


def test_a_decoder_tells_which_requests_it_does_not_have(system: System) -> None:
    request = system.request(5, 6)
    number = request.id.number
    system.submit(request)
    system.actor.receive(StillOpen(system.name, [number]))  # it is open: no answer
    system.start()
    system.wait(request)
    assert system.frontend.lost == []
    system.actor.receive(StillOpen(system.name, [number, 999]))
    system.check_serves()
    assert system.frontend.lost == [NotOpen([number, 999], Incarnation("decoder-0", 0))]


def test_an_encoder_that_got_no_job_is_asked_again(system: System, monkeypatch: Patch) -> None:
    monkeypatch.setattr(encodes, "ASK_AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(encodes, "CHECK_SECONDS", 0.05)
    encoder, jobs = system.actor.encoder, list[Encode]()
    take = encoder.send

    def lossy(message: Any) -> None:
        if isinstance(message, Encode):
            jobs.append(message)
        if len(jobs) != 1:  # the first one is lost
            take(message)

    monkeypatch.setattr(encoder, "send", lossy)
    system.start()
    system.check_serves()
    assert [message.again for message in jobs[:2]] == [False, True]
    assert system.actor.decoder.stats()["encodes_asked_again"] >= 1


def test_a_heartbeat_is_asked_for_when_another_frontend_or_a_trial_comes(system: System) -> None:
    decoder = system.actor.decoder
    first, second = system.request(5, 6), system.request(7)
    decoder.handle(Submit([first]))
    assert decoder.news.due.is_set()
    assert decoder.load_report()["senders"] == 1
    decoder.news.due.clear()
    decoder.handle(Submit([second]))
    assert not decoder.news.due.is_set(), "the same frontend"
    third = system.request(8)
    third.id, third.trial = RequestId("other", 0), Trial.FIRST_TOKEN
    decoder.handle(Submit([third]))
    assert decoder.news.due.is_set()
    decoder.news.due.clear()
    decoder.run_once()
    assert decoder.news.due.is_set()
    load = decoder.load_report()
    assert (load["senders"], load["trial"]) == (2, trial_mark(third.id))
    assert "trial" not in decoder.stats()
