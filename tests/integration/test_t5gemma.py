"""T5Gemma against transformers, greedy in float32."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_once import made_once
from oracle import LOGPROB_TOLERANCE, TOLERANCE, mixed_inputs, oracle, text_rules
from plain_engine import PlainEngine
from ranked_encoder import ranked_encoder
from ranked_engine import RankedEngine
from tiny_models import VOCAB
from tiny_t5gemma import START, WINDOW, make_t5gemma
from transformers import PreTrainedModel

from antiphon.attention.selection import refusal
from antiphon.attention.specs import encoder_spec
from antiphon.config.errors import AttentionBackendError, CheckpointError, ConfigurationError
from antiphon.config.options import resolve
from antiphon.config.parallel import Parallel
from antiphon.encoder.runner import EncoderRunner
from antiphon.families.checkpoint import ModelConfig
from antiphon.layers.checkpoint import Checkpoint
from antiphon.layers.gemma import scaled
from antiphon.layers.quantization.kv_scales import ProjectionInput
from antiphon.runtime.device import Target

KINDS: dict[str, dict[str, Any]] = {
    "usual": {},
    "untied": {"tied": False, "attention_bias": True, "attn_logit_softcapping": None},
}
REQUESTS = 9


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return made_once(lambda name, folder: make_t5gemma(folder, **KINDS[name]), tmp_path_factory)


def check(engine: PlainEngine, model: PreTrainedModel, staggered: bool, requests: int) -> None:
    """Greedy tokens of mixed texts, and their log-probabilities, are transformers'."""
    inputs = mixed_inputs(requests, VOCAB, seed=7)
    for ids, most in inputs:
        engine.submit(engine.request(ids, [START], most, text_rules(model)))
        if staggered:
            engine.step()
    finished, seen = engine.run(), set()
    for number, (ids, most) in enumerate(inputs):
        tokens, logprobs = oracle(model, torch.tensor(ids[None], dtype=torch.long), [START], most)
        assert finished[number].token_ids == tokens, f"request {number}"
        got = [token.logprobs[0] for token in finished[number].logprobs]
        np.testing.assert_allclose(got, logprobs, atol=LOGPROB_TOLERANCE)
        seen |= set(tokens)
    assert len(seen) > 10, f"the checkpoint repeats itself: {seen}"


@pytest.mark.parametrize(
    ("name", "staggered"),
    [
        pytest.param("usual", False, marks=pytest.mark.slow),
        ("usual", True),
        pytest.param("untied", True, marks=pytest.mark.slow),
    ],
)
def test_tokens_and_logprobs_equal_transformers(name: str, staggered: bool, made: Any) -> None:
    """`staggered`: requests come while others run, in rounds of three steps."""
    folder, model = made(name)
    options = {"max_num_seqs": 6, "kv_page_size": 8}
    engine = PlainEngine(
        folder, **options, warm=staggered, num_scheduler_steps=3 if staggered else 1
    )
    check(engine, model, staggered, REQUESTS)


@torch.inference_mode()
@pytest.mark.parametrize("parallel", [None, Parallel(2, 2)], ids=str)
def test_encoder_output_equals_transformers(
    parallel: Parallel | None, made: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Also of ranks: 2 heads of keys for 6 of queries."""
    folder, model = made("usual")
    inputs = [ids for ids, _ in mixed_inputs(8, VOCAB, seed=3)]
    if parallel is None:
        config = resolve(str(folder), {"device": "cpu"})
        with caplog.at_level("WARNING", "antiphon"):
            encoded = EncoderRunner(ModelConfig.load(config.model), config).encode(inputs)
        assert caplog.messages == []
    else:
        with ranked_encoder(folder, parallel) as runner:
            encoded = runner.encode(inputs)
    for ids, hidden in zip(inputs, encoded.hidden.split(encoded.lengths), strict=True):
        wanted = model.get_encoder()(torch.tensor(ids[None], dtype=torch.long))
        expected = wanted.last_hidden_state[0]
        assert (hidden - expected).abs().max() <= TOLERANCE * expected.abs().max()


@pytest.mark.parametrize(
    "parallel", [Parallel(2), pytest.param(Parallel(4, 2), marks=pytest.mark.slow)], ids=str
)
def test_several_ranks_give_what_one_gives(parallel: Parallel, made: Any) -> None:
    """3 heads of keys for 6 of queries: uneven, or copied."""
    folder, model = made("usual")
    with RankedEngine(folder, parallel, max_num_seqs=6, kv_page_size=8) as engine:
        check(engine, model, staggered=False, requests=9)


@torch.inference_mode()
def test_float8_caches_hold_what_is_made_of_normed_states(made: Any) -> None:
    """Gains are stored less 1: the bound of cross keys and values counts it."""
    folder, model = made("usual")
    engine = PlainEngine(folder, max_num_seqs=4, kv_cache_dtype="fp8")
    device = torch.device("cpu")
    bound = ProjectionInput.of_encoder(engine.model.encoder, Checkpoint(folder), device)
    hidden = engine.encoder.encode([ids for ids, _ in mixed_inputs(8, VOCAB, seed=3)]).hidden
    for layer in model.model.decoder.layers:
        for made_of in (layer.cross_attn.k_proj, layer.cross_attn.v_proj):
            most = bound.largest(made_of.weight, made_of.bias)
            assert most / 30 < float(made_of(hidden).abs().max()) <= most
    engine.submit(engine.request(np.array([5, 6, 7], np.int32), [START], 5, text_rules(model)))
    assert engine.run()[0].token_ids


def test_what_is_refused(made: Any) -> None:
    """Texts beyond the window of half of the layers; float16; backends that cap no scores."""
    folder, _ = made("usual")
    model = ModelConfig.load(resolve(str(folder), {}).model)
    assert (model.max_encoder_len, model.max_decoder_len) == (WINDOW, WINDOW)
    with pytest.raises(CheckpointError, match=f"max_encoder_len=150 is more than the {WINDOW}"):
        ModelConfig.load(resolve(str(folder), {"max_encoder_len": 150}).model)
    with pytest.raises(ConfigurationError, match="float16"):
        ModelConfig.load(resolve(str(folder), {"dtype": "float16"}).model)
    with pytest.raises(AttentionBackendError, match="caps no scores of attention"):
        PlainEngine(folder, decoder_attention_backend="cpu_paged")
    target = Target.resolve(resolve(str(folder), {"device": "cpu"}).model, {}, model.family)
    assert model.encoder is not None
    assert refusal("torch_sdpa", encoder_spec(model.encoder, target)) is None


def test_all_positions_count_without_windows(tmp_path: Path, made: Any) -> None:
    config = json.loads((made("usual")[0] / "config.json").read_text())
    for side in ("encoder", "decoder"):
        layers = config[side]["num_hidden_layers"]
        config[side]["layer_types"] = ["full_attention"] * layers
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = ModelConfig.load(resolve(str(tmp_path), {}).model)
    assert (model.max_encoder_len, model.max_decoder_len) == (200, 200)


@pytest.mark.parametrize("size", [768, 1152, 2304])
def test_embeddings_are_scaled_as_transformers_does_in_half_precision(size: int) -> None:
    """The factor is rounded before it multiplies; at most widths that makes a difference."""
    embedded = torch.randn(50, size, generator=torch.Generator().manual_seed(0)).bfloat16()
    expected = embedded * torch.tensor(size**0.5, dtype=torch.bfloat16)
    assert torch.equal(scaled(embedded, size), expected)
