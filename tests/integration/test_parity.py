"""Every family against transformers, in float32 and greedily.

The same checkpoint and inputs give the same tokens, and log-probabilities within a tolerance.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from oracle import (
    LOGPROB_TOLERANCE,
    TOLERANCE,
    clips,
    mixed_inputs,
    oracle,
    speech_oracle,
    text_rules,
)
from plain_engine import PlainEngine
from random_examples import share

from antiphon.config.decoding_rules import DecodingRules
from antiphon.scheduler.request import Finished

TEXT_FAMILIES = [name for name in tiny_models.FAMILIES if name != "whisper"]
REQUESTS = share(96)
Answers = list[tuple[list[int], list[float]]]  # tokens and log-probabilities of each request


@pytest.fixture(scope="module")
def text_answers(checkpoints) -> Callable[[str], tuple[list[tuple[np.ndarray, int]], Answers]]:
    """Inputs and what transformers gives for them, by family: it takes longer than our engine."""

    @cache
    def get(name: str) -> tuple[list[tuple[np.ndarray, int]], Answers]:
        _, model = checkpoints(name)
        start = model.generation_config.decoder_start_token_id
        inputs = mixed_inputs(REQUESTS, model.config.vocab_size, seed=7)
        return inputs, [
            oracle(model, torch.tensor(ids[None], dtype=torch.long), [start], max_new)
            for ids, max_new in inputs
        ]

    return get


@pytest.mark.parametrize("staggered", [False, True])
@pytest.mark.parametrize("name", TEXT_FAMILIES)
def test_tokens_and_logprobs_equal_transformers(
    name: str, staggered: bool, checkpoints, text_answers
) -> None:
    """`staggered`: requests come while others run, in rounds of three steps."""
    folder, model = checkpoints(name)
    engine = PlainEngine(
        folder,
        max_num_seqs=16,
        max_model_len=100,
        kv_page_size=8,
        warm=staggered,
        num_scheduler_steps=3 if staggered else 1,
    )
    start = model.generation_config.decoder_start_token_id
    inputs, answers = text_answers(name)
    for ids, max_new in inputs:
        engine.submit(engine.request(ids, [start], max_new, text_rules(model)))
        if staggered:
            engine.step()
    check_answers(engine.run(), answers)
    distinct = {token for tokens, _ in answers for token in tokens}
    assert len(distinct) > 15, f"the checkpoint repeats itself: only {distinct}"
    engine.replica.scheduler.pages.check()


def check_answers(finished: dict[int, Finished], answers: Answers) -> None:
    for i, (tokens, logprobs) in enumerate(answers):
        assert finished[i].token_ids == tokens, f"request {i}"
        np.testing.assert_allclose(
            [token.logprobs[0] for token in finished[i].logprobs], logprobs, atol=LOGPROB_TOLERANCE
        )


@pytest.mark.parametrize("name", TEXT_FAMILIES)
def test_encoder_output_equals_transformers(name: str, checkpoints) -> None:
    folder, model = checkpoints(name)
    engine = PlainEngine(folder, max_model_len=100)
    inputs = [ids for ids, _ in mixed_inputs(12, model.config.vocab_size, seed=3)]
    encoded = engine.encoder.encode(inputs)
    for ids, hidden in zip(inputs, encoded.hidden.split(encoded.lengths), strict=True):
        expected = model.get_encoder()(torch.tensor(ids[None], dtype=torch.long)).last_hidden_state[
            0
        ]
        torch.testing.assert_close(hidden, expected, atol=TOLERANCE, rtol=TOLERANCE)


def speech_prompt(timestamps: bool) -> list[int]:
    return [61, 63, 65] if timestamps else [61, 63, 65, 66]


@pytest.fixture(scope="module")
def speech_answers(checkpoints) -> Callable[[bool, int], tuple[list[Any], list[int], Answers]]:
    """Clips of at most a window, output lengths, and what transformers gives for them."""
    folder, model = checkpoints("whisper")
    from transformers import WhisperFeatureExtractor

    @cache
    def get(timestamps: bool, window: int) -> tuple[list[Any], list[int], Answers]:
        extractor = WhisperFeatureExtractor.from_pretrained(folder)
        prompt = speech_prompt(timestamps)
        sounds = clips(REQUESTS, window)
        lengths = np.random.default_rng(6).integers(1, 40, REQUESTS).tolist()
        answers = [
            speech_oracle(model, extractor, clip, prompt, length, timestamps)
            for clip, length in zip(sounds, lengths, strict=True)
        ]
        return sounds, lengths, answers

    return get


@pytest.mark.parametrize("staggered", [False, True])
@pytest.mark.parametrize("timestamps", [False, True])
def test_whisper_equals_transformers(
    timestamps: bool, staggered: bool, checkpoints, speech_answers
) -> None:
    folder, _ = checkpoints("whisper")
    from antiphon.config.decoding_rules import TimestampRules

    rules = TimestampRules(67, 66, 60, 20) if timestamps else None
    engine = PlainEngine(folder, timestamps=rules, max_num_seqs=16)
    sounds, lengths, answers = speech_answers(timestamps, engine.model.audio.window)
    prompt = speech_prompt(timestamps)
    decoding = DecodingRules(
        stop_ids=(60,), suppress=(3, 5, 7), begin_suppress=(60, 9), timestamps=rules
    )
    for clip, length in zip(sounds, lengths, strict=True):
        engine.submit(engine.request(clip, prompt, length, decoding))
        if staggered:
            engine.step()
    check_answers(engine.run(), answers)


@pytest.mark.parametrize("name", [*TEXT_FAMILIES, "whisper"])
def test_logits_equal_transformers(name: str, checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, model = checkpoints(name)
    engine = PlainEngine(folder, max_model_len=64, max_num_seqs=4)
    decoder = engine.replica.runner.model
    seen: list[torch.Tensor] = []
    original = decoder.logits
    monkeypatch.setattr(decoder, "logits", lambda hidden: seen.append(original(hidden)) or seen[-1])
    rng = np.random.default_rng(2)
    tokens = rng.integers(3, 59, 9).tolist()  # below Whisper's special tokens
    if name == "whisper":
        payload = clips(1, engine.model.audio.window)[0]
        from transformers import WhisperFeatureExtractor

        inputs = WhisperFeatureExtractor.from_pretrained(folder)(
            payload, sampling_rate=16_000, return_tensors="pt"
        ).input_features
    else:
        payload = rng.integers(3, 70, 17).astype(np.int32)
        inputs = torch.from_numpy(payload[None].astype(np.int64))
    for length in range(1, len(tokens) + 1):  # the last logits of every prefix
        engine.submit(engine.request(payload, tokens[:length], 1))
        engine.run()
    wanted = model(inputs, decoder_input_ids=torch.tensor([tokens])).logits[0]
    output = torch.cat(seen)
    scale = wanted.abs().max().clamp(min=1.0)
    torch.testing.assert_close(output / scale, wanted / scale, atol=TOLERANCE, rtol=0)


def test_whisper_encoder_output_equals_transformers(checkpoints) -> None:
    folder, model = checkpoints("whisper")
    engine = PlainEngine(folder)
    from transformers import WhisperFeatureExtractor

    sounds = clips(5, engine.model.audio.window)
    features = WhisperFeatureExtractor.from_pretrained(folder)(
        sounds, sampling_rate=16_000, return_tensors="pt"
    ).input_features
    wanted = model.get_encoder()(features).last_hidden_state
    encoded = engine.encoder.encode(sounds)
    torch.testing.assert_close(
        encoded.hidden.view_as(wanted), wanted, atol=TOLERANCE, rtol=TOLERANCE
    )


def test_t5_with_different_depths_equals_the_plain_forward(tmp_path) -> None:
    """transformers 5.23 cannot generate with such checkpoints: its forward gives the tokens."""
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(4)
    model = T5ForConditionalGeneration(
        T5Config(**{**tiny_models.T5_SHAPE, "num_decoder_layers": 4}, decoder_start_token_id=0)
    ).eval()
    tiny_models.liven_text_model(model)
    model.save_pretrained(tmp_path)
    engine = PlainEngine(tmp_path, max_model_len=64)
    inputs = mixed_inputs(12, tiny_models.VOCAB, seed=5)
    for ids, length in inputs:
        engine.submit(engine.request(ids, [0], length))
    finished = engine.run()
    for i, (ids, length) in enumerate(inputs):
        tokens = finished[i].token_ids
        assert len(tokens) == length
        logits = model(
            torch.tensor(ids[None], dtype=torch.long),
            decoder_input_ids=torch.tensor([[0, *tokens[:-1]]]),
        ).logits
        assert tokens == logits[0].argmax(-1).tolist()  # each behind those before it


def test_the_shipped_whisper_equals_transformers_on_real_sound(whisper_folder) -> None:
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

    from antiphon.inputs.audio.cuts import cut_at_quiet
    from antiphon.inputs.audio.forms import load_audio

    model = WhisperForConditionalGeneration.from_pretrained(
        whisper_folder, dtype=torch.float32
    ).eval()
    extractor = WhisperFeatureExtractor.from_pretrained(whisper_folder)
    engine = PlainEngine(whisper_folder)
    samples = load_audio(whisper_folder.parent / "recordings" / "long.opus", 16_000)
    pieces = [
        samples[start:end]
        for seconds in (3, 5, 8)
        for start, end in cut_at_quiet(samples, seconds * 16_000, 16_000)
    ]
    prompt, rules = [521, 522, 525, 529], DecodingRules(stop_ids=(520,), begin_suppress=(220, 520))
    for piece in pieces:
        engine.submit(engine.request(piece, prompt, 90, rules))
    finished = engine.run()
    for i, piece in enumerate(pieces):
        features = extractor(piece, sampling_rate=16_000, return_tensors="pt").input_features
        options = {
            "language": "en",
            "task": "transcribe",
            "return_timestamps": False,
            "force_unique_generate_call": True,
        }
        assert (
            finished[i].token_ids == model.generate(features, **options)[0, len(prompt) :].tolist()
        )
