"""Padding, beginning and end tokens inside sequences are treated as transformers treats them.

They stand in encoder prompts, in decoder prompts, and among generated tokens.
"""

import numpy as np
import pytest
import tiny_models
import torch
from oracle import LOGPROB_TOLERANCE, TOLERANCE, oracle, specials, texts
from plain_engine import PlainEngine
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel

from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.sampling import SamplingParams

TEXT_FAMILIES = [name for name in tiny_models.FAMILIES if name != "whisper"]


class Bias(LogitsProcessor):
    def __init__(self, bias: dict[int, float]) -> None:
        self.bias = bias

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.clone()
        for token, value in self.bias.items():
            scores[:, token] += value
        return scores


@torch.no_grad()
def tempting(
    model: PreTrainedModel, inputs: list[tuple[np.ndarray, list[int], int]]
) -> dict[int, float]:
    """A bias with which special ids are about as likely as the likeliest token."""
    gaps = []
    for ids, prompt, _ in inputs[:4]:
        logits = model(
            torch.from_numpy(ids[None].astype(np.int64)), decoder_input_ids=torch.tensor([prompt])
        ).logits[0]
        gaps.append(logits.amax(1, keepdim=True) - logits)
    mean = torch.cat(gaps).mean(0)
    return {token: float(mean[token]) for token in specials(model)}


@pytest.fixture
def endless(checkpoints, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    """A checkpoint whose generation ends at no token and forces none."""
    folder, model = checkpoints(request.param)
    for name in ("eos_token_id", "forced_bos_token_id", "forced_eos_token_id"):
        monkeypatch.setattr(model.generation_config, name, None)
    return folder, model


@pytest.mark.parametrize("endless", TEXT_FAMILIES, indirect=True)
def test_special_ids_inside_sequences_equal_transformers(endless) -> None:
    """Requests come while others run, pages are short, and every id may be generated."""
    folder, model = endless
    inputs = texts(model, prompt=9, seed=4)
    bias = tempting(model, inputs)
    engine = PlainEngine(
        folder,
        max_num_seqs=8,
        max_model_len=64,
        max_encoder_len=64,
        kv_page_size=4,
        num_kv_pages=40,
    )
    params = SamplingParams(logit_bias=bias, logprobs=0)
    for ids, prompt, length in inputs:
        engine.submit(engine.request(ids, prompt, length, DecodingRules(), params=params))
        engine.step()
    finished = engine.run()
    generated: list[int] = []
    for i, (ids, prompt, length) in enumerate(inputs):
        tokens, logprobs = oracle(
            model,
            torch.tensor(ids[None], dtype=torch.long),
            prompt,
            length,
            attention_mask=torch.ones(1, len(ids)),
            logits_processor=LogitsProcessorList([Bias(bias)]),
        )
        assert finished[i].token_ids == tokens, f"request {i}"
        np.testing.assert_allclose(
            [token.logprobs[0] for token in finished[i].logprobs], logprobs, atol=LOGPROB_TOLERANCE
        )
        generated += tokens
    assert np.isin(generated, specials(model)).mean() > 0.05
    assert model.config.pad_token_id in generated


@pytest.mark.parametrize("name", TEXT_FAMILIES)
def test_encoders_of_special_ids_equal_transformers(name: str, checkpoints) -> None:
    folder, model = checkpoints(name)
    engine = PlainEngine(folder, max_model_len=64)
    inputs = [ids for ids, _, _ in texts(model, prompt=1, seed=5)]
    encoded = engine.encoder.encode(inputs)
    for ids, hidden in zip(inputs, encoded.hidden.split(encoded.lengths), strict=True):
        expected = model.get_encoder()(torch.tensor(ids[None], dtype=torch.long)).last_hidden_state[
            0
        ]
        torch.testing.assert_close(hidden, expected, atol=TOLERANCE, rtol=TOLERANCE)
