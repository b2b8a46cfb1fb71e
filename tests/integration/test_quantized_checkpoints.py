"""Checkpoints as they are published quantised, against transformers with the same numbers."""

from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from oracle import clips, mixed_inputs
from plain_engine import PlainEngine
from quantized_checkpoints import METHODS, publish
from tiny_decoders import make_decoder
from transformers import PreTrainedModel, WhisperFeatureExtractor

# A rounded input may round the other way where sums differ in their last bit; and a CPU's operator
# for four bits, which takes bfloat16, has those of one scale per output here.
WEIGHTS_ALONE, INPUTS_TOO, HALF_PRECISION = 1e-3, 0.08, 0.02
PROMPT = [61, 63, 65, 66]
OPTIONS: dict[str, Any] = {"max_num_seqs": 8, "max_model_len": 64, "kv_page_size": 8}


def made(name: str, folder: Path) -> PreTrainedModel:
    make = make_decoder if name in ("llama", "qwen3") else tiny_models.make
    return make(name, folder)


def published(name: str, method: str, tmp_path: Path, **options: Any) -> tuple[Path, Any]:
    model = made(name, tmp_path / "plain")
    publish(model, tmp_path / "plain", tmp_path / "quantized", METHODS[method], **options)
    return tmp_path / "quantized", model


def difference(engine: PlainEngine, model: Any, folder: Path) -> float:
    """The largest between log-probabilities of the engine's tokens and transformers' of them."""
    kind, inputs = model.config.model_type, []
    if kind == "whisper":
        extractor = WhisperFeatureExtractor.from_pretrained(folder)
        for clip in clips(6, engine.model.audio.window):
            features = extractor(clip, sampling_rate=16_000, return_tensors="pt").input_features
            inputs.append((clip, PROMPT, {"input_features": features}))
    elif model.config.is_encoder_decoder:
        start = [model.generation_config.decoder_start_token_id]
        for ids, _ in mixed_inputs(6, model.config.vocab_size, seed=3):
            inputs.append((ids, start, {"input_ids": torch.tensor(ids[None]).long()}))
    else:
        for ids, _ in mixed_inputs(6, model.config.vocab_size, seed=3):
            inputs.append((None, ids[:30].tolist(), {}))
    for payload, prompt, _ in inputs:
        engine.submit(engine.request(payload, prompt, 12))
    finished = engine.run()
    differences = []
    for number, (_, prompt, given) in enumerate(inputs):
        tokens = finished[number].token_ids
        ids = torch.tensor([[*prompt, *tokens[:-1]]])
        given = {**given, "decoder_input_ids": ids} if given else {"input_ids": ids}
        with torch.no_grad():
            logits = model(**given).logits[0, len(prompt) - 1 :]
        expected = logits.log_softmax(-1)[torch.arange(len(tokens)), tokens]
        own = torch.tensor([token.logprobs[0] for token in finished[number].logprobs])
        differences.append((own - expected).abs())
    return float(torch.cat(differences).max())


def tolerance_of(method: str) -> float:
    if method == "w4a16 by output":
        return HALF_PRECISION
    return INPUTS_TOO if METHODS[method].inputs else WEIGHTS_ALONE


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["whisper", "t5_gated_untied", "bart", "qwen3"])
def test_log_probabilities_are_those_of_the_stored_numbers(
    name: str, method: str, tmp_path: Path
) -> None:
    folder, model = published(name, method, tmp_path)
    assert difference(PlainEngine(folder, **OPTIONS), model, folder) < tolerance_of(method)
