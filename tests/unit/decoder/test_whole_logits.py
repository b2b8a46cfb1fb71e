"""Logits whose words are divided unevenly among ranks come together in their order."""

import pytest
import torch
from thread_group import ThreadGroup, run_ranks

from antiphon.decoder.whole_logits import whole_logits
from antiphon.layers.shard import Shard


@pytest.mark.parametrize("vocab_size", [3, 16, 99, 100])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_all_ranks_have_all_words(size: int, vocab_size: int) -> None:
    wanted = torch.randn(4, vocab_size)

    def gather(group: ThreadGroup) -> torch.Tensor:
        shard = Shard(group)
        return whole_logits(wanted[:, shard.vocabulary(vocab_size).slice], shard, vocab_size)

    for gathered in run_ranks(size, gather):
        assert gathered.equal(wanted)
