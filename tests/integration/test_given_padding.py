"""Padding ids in an encoder's input are tokens like others, as in transformers without a mask.

transformers' generate infers a mask from padding ids only for decoder-only models; before version
5, it did so for encoder/decoder models too.
"""

from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
from plain_engine import PlainEngine
from transformers import AutoModelForSeq2SeqLM

from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.options import ModelOptions
from antiphon.config.sampling import SamplingParams
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.processor import InputProcessor

FAMILIES = [name for name in tiny_models.FAMILIES if name != "whisper"]
QUICK = ("bart", "marian", "t5")
PLACES = {
    "start": [0, 1, 2],
    "middle": [5, 6, 11],
    "end": [17, 18, 19],
    "everywhere": [0, 3, 4, 9, 15, 19],
    "all but one": [*range(7), *range(8, 20)],
    "all": list(range(20)),
}
LOGPROB_TOLERANCE = 1e-3


@pytest.fixture
def unforced(checkpoints, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    """A checkpoint that forces no token."""
    folder, model = checkpoints(request.param)
    for name in ("forced_bos_token_id", "forced_eos_token_id"):
        monkeypatch.setattr(model.generation_config, name, None)
    return folder, model


@pytest.mark.parametrize(
    "unforced",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES],
    indirect=True,
)
def test_tokens_and_logprobs_equal_transformers_without_a_mask(unforced) -> None:
    folder, model = unforced
    settings, rng = model.generation_config, np.random.default_rng(8)
    assert settings.pad_token_id != settings.eos_token_id
    engine = PlainEngine(
        folder, max_num_seqs=8, max_model_len=64, max_encoder_len=64, kv_page_size=4
    )
    rules = DecodingRules(stop_ids=(settings.eos_token_id,))
    texts: list[tuple[np.ndarray, int]] = []
    for places in PLACES.values():
        ids = rng.integers(3, 58, 20).astype(np.int32)
        ids[places] = settings.pad_token_id
        texts.append(
            (ids, engine.submit(engine.request(ids, [settings.decoder_start_token_id], 12, rules)))
        )
    ends = engine.run()
    for name, (ids, request) in zip(PLACES, texts, strict=True):
        expected = model.generate(
            torch.tensor(ids[None], dtype=torch.long),
            max_new_tokens=12,
            do_sample=False,
            num_beams=1,
            output_logits=True,
            return_dict_in_generate=True,
        )
        tokens = expected.sequences[0, 1:].tolist()
        assert ends[request].token_ids == tokens, name
        logprobs = [
            step[0].log_softmax(-1)[token].item()
            for step, token in zip(expected.logits, tokens, strict=True)
        ]
        actual = [token.logprobs[0] for token in ends[request].logprobs]
        np.testing.assert_allclose(actual, logprobs, atol=LOGPROB_TOLERANCE, err_msg=name)


def test_prompts_of_ids_and_of_text_equal_transformers(t5_folder: Path) -> None:
    model = AutoModelForSeq2SeqLM.from_pretrained(t5_folder, dtype=torch.float32)
    inputs = InputProcessor(ModelConfig.load(ModelOptions(str(t5_folder))))
    engine = PlainEngine(t5_folder)
    ids = inputs.tokenizer("in words: 365250").input_ids
    text = inputs.tokenizer.pad_token + "in words: 12"
    prompts = [
        {"prompt_token_ids": [0, 0, *ids]},
        {"encoder_prompt": {"prompt_token_ids": np.array([*ids, 0, 0, 0])}},
        {"prompt_token_ids": [0, *ids[:3], 0, 0, *ids[3:], 0]},
        text,
    ]
    for prompt in prompts:
        media = inputs.prepare(prompt, SamplingParams()).media
        assert 0 in media.payload
        request = engine.request(media.payload, [0], 30, inputs.rules(1, SamplingParams(), False))
        engine.submit(request)
        encoder_ids = torch.from_numpy(media.payload[None].astype(np.int64))
        expected = model.generate(encoder_ids, max_new_tokens=30)[0, 1:].tolist()
        assert engine.run()[request.id.number].token_ids == expected, prompt
