"""A thousand sequences at a time: slots, pages and step plans of `max_num_seqs=1024`."""

from typing import Any

import pytest
import torch
from oracle import mixed_inputs, oracle, text_rules
from plain_engine import PlainEngine

from antiphon.scheduler.intake import ASKED_AT_ONCE

SLOTS, TEXTS = 1024, 8


@pytest.mark.parametrize("cross_attention", ["kv", "latent"])
def test_as_many_sequences_decode_together(cross_attention: str, checkpoints: Any) -> None:
    folder, model = checkpoints("bart")
    engine = PlainEngine(
        folder, max_num_seqs=SLOTS, max_model_len=16, max_encoder_len=16, kv_page_size=8,
        max_num_batched_tokens=2 * SLOTS, cross_attention=cross_attention,
    )  # fmt: skip
    start = model.generation_config.decoder_start_token_id
    inputs = [ids[:12] for ids, _ in mixed_inputs(TEXTS, model.config.vocab_size, seed=3)]
    for number in range(SLOTS):
        engine.submit(engine.request(inputs[number % TEXTS], [start], 3, text_rules(model)))
    scheduler = engine.replica.scheduler
    for _ in range(SLOTS // ASKED_AT_ONCE):
        engine.unencoded += [media for media, _ in scheduler.next_encodes()]
        engine.run_encoders()
    engine.step()
    assert len(scheduler.batch) == SLOTS
    engine.run()
    for text, ids in enumerate(inputs):
        wanted, _ = oracle(model, torch.tensor(ids[None], dtype=torch.long), [start], 3)
        for number in range(text, SLOTS, TEXTS):
            assert engine.finished[number].token_ids == list(wanted)
