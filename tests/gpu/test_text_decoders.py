"""On a CUDA device: decoders without encoders, in graphs and without, against transformers.

python -m pytest -m gpu tests/gpu/test_text_decoders.py
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plain_engine import PlainEngine
from prompt_states import STATES, StatesEngine, make_states, run_with_states
from tiny_decoders import DECODERS, make_decoder
from tiny_models import VOCAB

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize(
    "options",
    [{}, {"enforce_eager": True}, {"max_num_batched_tokens": 24}],
    ids=["graphs", "eager", "chunks"],
)
def test_tokens_equal_transformers(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    model = make_decoder(name, tmp_path)
    engine = PlainEngine(
        tmp_path, **{"device": "cuda", "dtype": "float32", "max_num_seqs": 6, **options}
    )
    runner = engine.replica.runner
    assert (runner.graphs is None) == ("enforce_eager" in options)
    rng = np.random.default_rng(7)
    lengths = [1, 2, 90, *rng.integers(1, 90, 9)]
    prompts = [rng.integers(3, VOCAB, length).tolist() for length in lengths]
    for prompt in prompts:
        engine.submit(engine.request(None, prompt, 20))
    finished = engine.run()
    right = 0
    for number, prompt in enumerate(prompts):
        logits = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=20,
            min_new_tokens=20, do_sample=False, eos_token_id=VOCAB + 1,
        )  # fmt: skip
        right += finished[number].token_ids == logits[0, len(prompt) :].tolist()
    assert right == len(prompts)
    if runner.graphs is not None and not options:
        assert not runner.eager_steps


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": "float16"},
        {"dtype": "bfloat16"},
        # Rounded keys part the tokens of a random model soon: on a CPU 0.17 at the median.
        {"dtype": "float32", "kv_cache_dtype": "fp8"},
    ],
    ids=["float16", "bfloat16", "float8"],
)
def test_low_precision_is_close_to_float32(options: dict[str, str], tmp_path: Path) -> None:
    """First tokens' log-probabilities, which have a spread of 38."""
    model = make_decoder("llama", tmp_path)
    engine = PlainEngine(tmp_path, device="cuda", max_num_seqs=4, **options)
    rng = np.random.default_rng(7)
    prompts = [rng.integers(3, VOCAB, length).tolist() for length in (1, 2, 5, 13, 40, 64, 90)]
    for prompt in prompts:
        engine.submit(engine.request(None, prompt, 1))
    finished = engine.run()
    errors = []
    for number, prompt in enumerate(prompts):
        wanted = model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
        (token,) = finished[number].token_ids
        errors.append(abs(finished[number].token_logprobs[0] - wanted[token].item()))
    assert np.median(errors) < 0.5


@pytest.mark.parametrize("most_tokens", [5, 100])
def test_hidden_states_stand_in_prompts_of_graphs(most_tokens: int, tmp_path: Path) -> None:
    states = make_states(make_decoder("llama", tmp_path), STATES)
    options = {"max_num_seqs": 2, "max_model_len": 16, "dtype": "float32"}
    options["max_num_batched_tokens"] = most_tokens
    expected = run_with_states(StatesEngine(tmp_path, states, **options, device="cpu"))
    engine = StatesEngine(tmp_path, states, **options, device="cuda")
    ends = run_with_states(engine)
    assert [end.token_ids for end in ends] == [end.token_ids for end in expected]
    assert engine.replica.runner.graphs is not None
    assert not engine.replica.runner.eager_steps
