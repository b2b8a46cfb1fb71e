"""What frontends are told, and that nothing is left of those that are gone."""

import numpy as np

from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.sampling import SamplingParams
from antiphon.scheduler.outputs import Outputs
from antiphon.scheduler.request import Request, RequestId


def admitted(outputs: Outputs, frontend: str, number: int, slot: int) -> None:
    prompt, params = np.array([1]), SamplingParams()
    request_id = RequestId(frontend, number)
    request = Request(request_id, prompt, (), params, DecodingRules(), 8, 0, slot=slot)
    outputs.admit(request)


def told(outputs: Outputs, *slots: int) -> dict[str, list[int]]:
    """Of tokens in these slots: the numbers of their requests, by frontend."""
    zeros = np.zeros(len(slots), np.int64)
    outputs.add_tokens(np.array(slots), zeros, zeros)
    return {output.frontend: output.delta_numbers for output in outputs.pop()}


def test_frontends_that_come_and_go_leave_nothing() -> None:
    outputs = Outputs(4)
    admitted(outputs, "stays", 7, 0)
    for number in range(50):
        name = f"passes {number}"
        admitted(outputs, name, number, 1)
        admitted(outputs, name, number + 1, 2)
        assert told(outputs, 2, 0, 1) == {"stays": [7], name: [number + 1, number]}
        outputs.forget(name)
        outputs.forget(name)
    assert (len(outputs._names), len(outputs._indices)) == (1, 1)
    admitted(outputs, "passes 3", 5, 3)  # it is back
    assert told(outputs, 3, 0) == {"stays": [7], "passes 3": [5]}
