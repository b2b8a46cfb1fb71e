"""Words that a checkpoint bars: of a batch, only the rows that ask for it are changed."""

import torch
from sampling_steps import sample

from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.sampling import SamplingParams
from antiphon.decoder.sampling.sampler import Sampler
from antiphon.decoder.state import Slots
from antiphon.scheduler.plan import Admission


def test_bad_words_bar_rows_that_ask_alone() -> None:
    slots = Slots(4, 12, 20, torch.device("cpu"))
    sampler = Sampler(slots, None)
    rows = {
        0: ([9, 4, 5], ((4, 5, 1), (5, 2))),
        1: ([9, 4, 5], ()),
        2: ([5], ((5, 1),)),
        3: ([9, 5, 4], ((4, 5, 1), (5, 2))),
    }
    for slot, (history, words) in rows.items():
        rules = DecodingRules(bad_words=words)
        slots.admit(
            [Admission(slot, torch.tensor(history).numpy(), 1, 12, 0, SamplingParams(), rules)]
        )
    logits = torch.full((4, 20), -9.0)
    logits[:, 1], logits[:, 2], logits[:, 3] = 3.0, 2.0, 1.0
    order = torch.arange(4).numpy()
    lengths = torch.tensor([len(history) for history, _ in rows.values()]).numpy()
    assert sample(sampler, logits, order, lengths)[0].tolist() == [3, 1, 2, 1]
    assert slots.host.rows_asking("resampled", order).tolist() == [0, 2, 3]
