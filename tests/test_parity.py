"""Every family against transformers: same checkpoint, same inputs, float32, greedy: same tokens, same log-probabilities."""

import numpy as np
import pytest
import tiny_models
import torch
from plain_engine import PlainEngine
from transformers import PreTrainedModel

from antiphon.config.sampling import DecodingRules

TEXT_FAMILIES = [name for name in tiny_models.FAMILIES if name != "whisper"]
REQUESTS, LOGPROB_TOLERANCE, TOLERANCE = 64, 1e-3, 1e-4


def mixed_inputs(count: int, vocab: int, seed: int) -> list[tuple[np.ndarray, int]]:
    """(token ids, output length) of mixed lengths, at the ends of the range too."""
    rng = np.random.default_rng(seed)
    lengths = [1, 2, 70, *rng.integers(1, 60, count - 3)]
    return [(rng.integers(3, vocab - 1, length).astype(np.int32), int(rng.integers(1, 40))) for length in lengths]


def oracle(
    model: PreTrainedModel, inputs: torch.Tensor, prompt: list[int], max_new: int, **options
) -> tuple[list[int], list[float]]:
    """Tokens and their raw log-probabilities by transformers' generate, one request at a time."""
    found = model.generate(
        inputs, decoder_input_ids=torch.tensor([prompt]), max_new_tokens=max_new, do_sample=False, num_beams=1,
        output_logits=True, return_dict_in_generate=True, **options,
    )  # fmt: skip
    tokens = found.sequences[0, len(prompt) :].tolist()
    logprobs = [logits[0].log_softmax(-1)[token].item() for logits, token in zip(found.logits, tokens, strict=True)]
    return tokens, logprobs


def text_rules(model: PreTrainedModel) -> DecodingRules:
    generation = model.generation_config
    return DecodingRules(
        stop_ids=(generation.eos_token_id,), forced_first=generation.forced_bos_token_id, forced_last=generation.forced_eos_token_id
    )


@pytest.mark.parametrize("name", TEXT_FAMILIES)
@pytest.mark.parametrize("staggered", [False, True])
def test_tokens_and_logprobs_equal_transformers(name: str, staggered: bool, checkpoints) -> None:
    folder, model = checkpoints(name)
    engine = PlainEngine(folder, max_num_seqs=16, max_model_len=100, kv_page_size=8)
    start = model.generation_config.decoder_start_token_id
    inputs = mixed_inputs(REQUESTS, model.config.vocab_size, seed=7 + staggered)
    for ids, max_new in inputs:
        engine.submit(engine.request(ids, [start], max_new, text_rules(model)))
        if staggered:
            engine.step()
    finished = engine.run()
    distinct = set()
    for i, (ids, max_new) in enumerate(inputs):
        tokens, logprobs = oracle(model, torch.tensor(ids[None], dtype=torch.long), [start], max_new)
        assert finished[i].token_ids == tokens, f"request {i}"
        np.testing.assert_allclose([each.logprobs[0] for each in finished[i].logprobs], logprobs, atol=LOGPROB_TOLERANCE)
        distinct |= set(tokens)
    assert len(distinct) > 15, f"the checkpoint repeats itself: only {distinct}"
    engine.replica.scheduler.pages.check()


@pytest.mark.parametrize("name", TEXT_FAMILIES)
def test_encoder_output_equals_transformers(name: str, checkpoints) -> None:
    folder, model = checkpoints(name)
    engine = PlainEngine(folder, max_model_len=100)
    inputs = [ids for ids, _ in mixed_inputs(12, model.config.vocab_size, seed=3)]
    encoded = engine.encoder.encode(inputs)
    for ids, mine in zip(inputs, encoded.hidden.split(encoded.lengths), strict=True):
        theirs = model.get_encoder()(torch.tensor(ids[None], dtype=torch.long)).last_hidden_state[0]
        torch.testing.assert_close(mine, theirs, atol=TOLERANCE, rtol=TOLERANCE)


def clips(count: int, window: int) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [(rng.standard_normal(int(rng.integers(1, window + 1))) * 0.1).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize("timestamps", [False, True])
@pytest.mark.parametrize("staggered", [False, True])
def test_whisper_equals_transformers(timestamps: bool, staggered: bool, checkpoints) -> None:
    folder, model = checkpoints("whisper")
    from transformers import WhisperFeatureExtractor

    from antiphon.config.sampling import TimestampRules

    rules = TimestampRules(67, 66, 60, 20) if timestamps else None
    engine = PlainEngine(folder, timestamps=rules, max_num_seqs=16)
    extractor = WhisperFeatureExtractor.from_pretrained(folder)
    sounds = clips(REQUESTS, engine.encoder.audio.window)
    prompt = [61, 63, 65] if timestamps else [61, 63, 65, 66]
    lengths = np.random.default_rng(6).integers(1, 40, REQUESTS).tolist()
    decoding = DecodingRules(stop_ids=(60,), suppress=(3, 5, 7), begin_suppress=(60, 9), timestamps=rules)
    for clip, length in zip(sounds, lengths, strict=True):
        engine.submit(engine.request(clip, prompt, length, decoding))
        if staggered:
            engine.step()
    finished = engine.run()
    for i, (clip, length) in enumerate(zip(sounds, lengths, strict=True)):
        features = extractor(clip, sampling_rate=16_000, return_tensors="pt").input_features
        found = model.generate(
            features, language="de", task="transcribe", max_new_tokens=length, return_timestamps=timestamps, do_sample=False,
            output_logits=True, return_dict_in_generate=True, force_unique_generate_call=True,
        )  # fmt: skip
        tokens = found.sequences[0, len(prompt) :].tolist()
        logprobs = [logits[0].log_softmax(-1)[token].item() for logits, token in zip(found.logits, tokens, strict=True)]
        assert finished[i].token_ids == tokens, f"request {i}"
        np.testing.assert_allclose([each.logprobs[0] for each in finished[i].logprobs], logprobs, atol=LOGPROB_TOLERANCE)
