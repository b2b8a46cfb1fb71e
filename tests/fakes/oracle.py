"""What transformers gives, and the inputs that both are given."""

from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from antiphon.config.decoding_rules import DecodingRules

LOGPROB_TOLERANCE, TOLERANCE = 1e-3, 1e-4
TEXTS = 10


def mixed_inputs(count: int, vocab: int, seed: int) -> list[tuple[np.ndarray, int]]:
    """(token ids, output length) of mixed lengths, at the ends of the range too."""
    rng = np.random.default_rng(seed)
    lengths = [1, 2, 70, *rng.integers(1, 60, count - 3)]
    return [
        (rng.integers(3, vocab - 1, length).astype(np.int32), int(rng.integers(1, 40)))
        for length in lengths
    ]


def oracle(
    model: PreTrainedModel, inputs: torch.Tensor, prompt: list[int], max_new: int, **options
) -> tuple[list[int], list[float]]:
    """Tokens and their raw log-probabilities by transformers' generate, one request at a time."""
    output = model.generate(
        inputs,
        decoder_input_ids=torch.tensor([prompt]),
        max_new_tokens=max_new,
        do_sample=False,
        num_beams=1,
        output_logits=True,
        return_dict_in_generate=True,
        **options,
    )
    return _generated(output, prompt)


def speech_oracle(
    model: PreTrainedModel,
    extractor: Any,
    sound: np.ndarray,
    prompt: list[int],
    max_new: int,
    timestamps: bool = False,
) -> tuple[list[int], list[float]]:
    """As `oracle`, for a sound; `prompt` is German speech to text."""
    features = extractor(sound, sampling_rate=16_000, return_tensors="pt").input_features
    output = model.generate(
        features,
        language="de",
        task="transcribe",
        max_new_tokens=max_new,
        return_timestamps=timestamps,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        force_unique_generate_call=True,
    )
    return _generated(output, prompt)


def _generated(output: Any, prompt: list[int]) -> tuple[list[int], list[float]]:
    """Tokens behind `prompt`, and their log-probabilities."""
    tokens = output.sequences[0, len(prompt) :].tolist()
    logprobs = [
        logits[0].log_softmax(-1)[token].item()
        for logits, token in zip(output.logits, tokens, strict=True)
    ]
    return tokens, logprobs


def text_rules(model: PreTrainedModel) -> DecodingRules:
    generation = model.generation_config
    return DecodingRules(
        stop_ids=(generation.eos_token_id,),
        forced_first=generation.forced_bos_token_id,
        forced_last=generation.forced_eos_token_id,
    )


def clips(count: int, window: int) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [
        (rng.standard_normal(int(rng.integers(1, window + 1))) * 0.1).astype(np.float32)
        for _ in range(count)
    ]


def specials(model: PreTrainedModel) -> list[int]:
    """Ids with a meaning; for models without a beginning, two of them."""
    config = model.config
    return sorted(
        {
            config.pad_token_id,
            config.eos_token_id,
            getattr(config, "bos_token_id", None) or config.eos_token_id,
        }
    )


def texts(
    model: PreTrainedModel, prompt: int, seed: int
) -> list[tuple[np.ndarray, list[int], int]]:
    """(encoder ids, decoder prompt, output length) over the whole vocabulary.

    A third of the ids are special ones, also at the ends and several in a row.
    """
    rng, ids = np.random.default_rng(seed), specials(model)
    sizes = (
        model.config.vocab_size,
        getattr(model.config, "decoder_vocab_size", None) or model.config.vocab_size,
    )

    def draw(size: int, length: int) -> np.ndarray:
        drawn = rng.integers(0, size, length)
        special = rng.random(length) < 0.33
        drawn[special] = rng.choice(ids, int(special.sum()))
        return drawn.astype(np.int32)

    start = model.generation_config.decoder_start_token_id
    return [
        (
            draw(sizes[0], int(rng.integers(1, 40))),
            [start, *draw(sizes[1], int(rng.integers(0, prompt))).tolist()],
            int(rng.integers(6, 18)),
        )
        for _ in range(TEXTS)
    ]
