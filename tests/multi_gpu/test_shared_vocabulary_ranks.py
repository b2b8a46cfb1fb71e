"""Processes that share the vocabulary choose by kernels what one rank chooses in torch: on GPUs in
a captured graph, with the exchange inside."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from shared_vocabulary import Batch, check_alike, chosen_by_rank

from antiphon.config.decoding_rules import TimestampRules
from antiphon.config.parallel import Parallel
from antiphon.decoder.sampling.samples import Samples

RULES = TimestampRules(60, 59, 50, 4)


@pytest.mark.parametrize("rules", [None, RULES], ids=["plain", "timestamps"])
def test_two_processes_choose_what_one_does(
    rules: TimestampRules | None, device: str, run_ranks: Callable[..., list[Any]]
) -> None:
    batch = Batch(2, rules)
    wanted = batch.by_torch(batch.logits())
    for packed in run_ranks(Parallel(2), chosen_by_rank, batch, device):
        check_alike(Samples(torch.from_numpy(packed)), wanted)
