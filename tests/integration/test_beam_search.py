"""Beam search equals transformers' `generate(num_beams=...)`, and openai/whisper's rule."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from oracle import clips, mixed_inputs, text_rules
from plain_engine import PlainEngine
from transformers import PreTrainedModel

from antiphon.config.decoding_rules import BeamRules, DecodingRules
from antiphon.scheduler.request import Finished

TOLERANCE = 5e-3  # of sums over up to 40 tokens, each within 1e-3 (`oracle.LOGPROB_TOLERANCE`)


def wanted(
    model: PreTrainedModel, inputs: torch.Tensor, prompt: list[int], max_new: int, rules: BeamRules,
    **options: Any,
) -> list[tuple[list[int], float]]:  # fmt: skip
    """The n best of transformers, with their scores."""
    output = model.generate(
        inputs,
        decoder_input_ids=torch.tensor([prompt]),
        max_new_tokens=max_new,
        do_sample=False,
        num_beams=rules.size,
        num_return_sequences=rules.num_best,
        length_penalty=1.0 if rules.length_penalty is None else rules.length_penalty,
        early_stopping=rules.early_stopping,
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )
    ends = model.generation_config.eos_token_id
    sequences = [_up_to(sequence[len(prompt) :].tolist(), ends) for sequence in output.sequences]
    return list(zip(sequences, output.sequences_scores.tolist(), strict=True))


def _up_to(tokens: list[int], end: int) -> list[int]:
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens


def check(end: Finished, expected: list[tuple[list[int], float]], what: str) -> None:
    results = end.results()
    assert [one.token_ids for one in results] == [tokens for tokens, _ in expected], what
    scores = [score for _, score in expected]
    np.testing.assert_allclose([one.score for one in results], scores, atol=TOLERANCE)
    for one in results:
        assert len(one.token_logprobs) == len(one.token_ids) == len(one.logprobs)
        assert [token.ids[0] for token in one.logprobs] == one.token_ids


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("bart", "marian")]


@pytest.mark.parametrize("name", ["t5", "m2m100", *SLOW])
def test_ids_and_scores_equal_transformers(name: str, checkpoints: Any) -> None:
    """Of searches of several sizes and settings, which start while others and greedy requests
    run, in a pool that is short of pages."""
    folder, model = checkpoints(name)
    options = {"max_num_seqs": 13, "max_model_len": 100, "kv_page_size": 4, "num_kv_pages": 80}
    engine = PlainEngine(folder, num_scheduler_steps=3, **options)
    start = model.generation_config.decoder_start_token_id
    # NLLB names a language so.
    forced = {"forced_bos_token_id": 9} if name == "m2m100" else {}
    rules, searches = text_rules(model), {}
    if forced:
        rules = replace(rules, forced_first=9)
    settings = [(1, 1, 1.0, False), (3, 3, 0.0, True), (5, 4, 2.0, "never"), (2, 1, -0.5, False)]
    for i, (ids, max_new) in enumerate(mixed_inputs(12, model.config.vocab_size, seed=11)):
        size, num_best, penalty, early = settings[i % 4]
        beams = BeamRules(size, num_best, False, penalty, early) if size > 1 else None
        request = engine.request(ids, [start], max_new, replace(rules, beams=beams))
        engine.submit(request)
        if beams is not None:
            searches[request.id.number] = ids, max_new, beams
        engine.step()
        engine.step()
    finished = engine.run()
    for number, (ids, max_new, beams) in searches.items():
        inputs = torch.tensor(ids[None], dtype=torch.long)
        expected = wanted(model, inputs, [start], max_new, beams, **forced)
        check(finished[number], expected, f"request {number}: {beams}")
    engine.replica.scheduler.pages.check()
    assert engine.replica.scheduler.pages.num_available == 80


# ---------------------------------------------------------------------- Whisper

PROMPT = [61, 63, 65, 66]
SUPPRESSED, NOT_FIRST = (5, 6, 7, 30), (60, 8)


@pytest.fixture(scope="module")
def sounds(checkpoints: Any) -> tuple[PlainEngine, PreTrainedModel, list[np.ndarray], torch.Tensor]:
    """Clips, and their features [clips, mels, frames]."""
    from transformers import WhisperFeatureExtractor

    folder, model = checkpoints("whisper")
    engine = PlainEngine(folder, max_num_seqs=12)
    waves = clips(4, engine.model.audio.window)
    extractor = WhisperFeatureExtractor.from_pretrained(folder)
    features = extractor(waves, sampling_rate=16000, return_tensors="pt").input_features
    return engine, model, waves, features


def searched(
    engine: PlainEngine, waves: list[np.ndarray], max_new: int, beams: BeamRules
) -> list[Finished]:
    rules = DecodingRules((60,), SUPPRESSED, NOT_FIRST, beams=beams)
    numbers = [engine.submit(engine.request(wave, PROMPT, max_new, rules)) for wave in waves]
    engine.run()
    return [engine.finished[number] for number in numbers]


def test_whisper_by_the_rule_of_transformers(sounds: Any) -> None:
    engine, model, waves, features = sounds
    beams = BeamRules(3, 2, length_penalty=1.5)
    for end, one in zip(searched(engine, waves, 20, beams), features, strict=True):
        expected = _generated(model, one[None], 20, beams)
        check(end, expected, "whisper")


def _generated(
    model: PreTrainedModel, features: torch.Tensor, max_new: int, beams: BeamRules
) -> list[tuple[list[int], float]]:
    """By the `generate` that Whisper's own wraps."""
    from transformers.generation import GenerationMixin

    output = GenerationMixin.generate(
        model, features, decoder_input_ids=torch.tensor([PROMPT]), max_new_tokens=max_new,
        do_sample=False, num_beams=beams.size, num_return_sequences=beams.num_best,
        length_penalty=beams.length_penalty, suppress_tokens=list(SUPPRESSED),
        begin_suppress_tokens=list(NOT_FIRST), eos_token_id=60, pad_token_id=60,
        return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    found = [_up_to(sequence[len(PROMPT) :].tolist(), 60) for sequence in output.sequences]
    return list(zip(found, output.sequences_scores.tolist(), strict=True))


@pytest.mark.parametrize(
    ("size", "patience", "length_penalty"), [(2, 1.0, None), (5, 1.0, None), (3, 2.0, 0.7)]
)
def test_whisper_by_the_rule_of_openai(
    size: int, patience: float, length_penalty: float | None, sounds: Any
) -> None:
    engine, model, waves, features = sounds
    beams = BeamRules(size, 2, True, length_penalty, patience=patience)
    for end, one in zip(searched(engine, waves, 12, beams), features, strict=True):
        expected = openai_beams(model, one[None], 12, beams)
        for result, (tokens, score, total) in zip(end.results(), expected, strict=True):
            assert [token for token in result.token_ids if token != 60] == tokens
            assert result.score == pytest.approx(score, abs=TOLERANCE)
            assert result.restricted_logprob == pytest.approx(total, abs=TOLERANCE)


@torch.inference_mode()
def openai_beams(
    model: PreTrainedModel, features: torch.Tensor, max_new: int, beams: BeamRules
) -> list[tuple[list[int], float, float]]:
    """openai/whisper's search, one sequence at a time: the n best texts, with score and sum."""
    hidden = model.get_encoder()(features)
    running, finished = {(): 0.0}, {}
    for step in range(max_new):
        totals = {}
        for tokens, total in running.items():
            ids = torch.tensor([[*PROMPT, *tokens]])
            logits = model(encoder_outputs=hidden, decoder_input_ids=ids).logits[0, -1]
            logits[[*SUPPRESSED, *(NOT_FIRST if step == 0 else ())]] = -torch.inf
            top = logits.log_softmax(-1).topk(beams.size + 1)
            for value, token in zip(top.values.tolist(), top.indices.tolist(), strict=True):
                totals[(*tokens, token)] = total + value
        running, ended = {}, {}
        for tokens in sorted(totals, key=totals.__getitem__, reverse=True):
            (ended if tokens[-1] == 60 else running)[tokens] = totals[tokens]
            if len(running) == beams.size:
                break
        for tokens, total in ended.items():
            if len(finished) < round(beams.size * beams.patience):
                finished[tokens] = total
        if len(finished) >= round(beams.size * beams.patience):
            break
    for tokens, total in running.items():
        if len(finished) < beams.size:
            finished[(*tokens, 60)] = total

    def score(tokens: tuple[int, ...]) -> float:
        length, penalty = len(tokens) - 1, beams.length_penalty
        return finished[tokens] / (length if penalty is None else ((5 + length) / 6) ** penalty)

    best = sorted(finished, key=score, reverse=True)[: beams.num_best]
    return [(list(tokens[:-1]), score(tokens), finished[tokens]) for tokens in best]
