"""Cross-attention on hidden states gives what keys and values give, and takes less memory."""

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from first_layers import first_layers
from oracle import LOGPROB_TOLERANCE, clips, mixed_inputs, oracle, speech_oracle, text_rules
from paths import RECORDINGS, T5, WHISPER
from plain_engine import PlainEngine
from rank_scenarios import OPTIONS, PAGES, check_course, check_same_ends, play
from ranked_engine import RankedEngine
from tiny_models import FAMILIES
from tiny_t5gemma import START, make_t5gemma
from transformers import AutoModelForSeq2SeqLM

from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.parallel import Parallel
from antiphon.inputs.audio.forms import load_audio
from antiphon.layers.linear import Linear
from antiphon.scheduler.alignment import Alignment
from antiphon.scheduler.request import Finished, RequestState

Folder = Callable[[str], Path]
LATENT: dict[str, Any] = {"cross_attention": "latent"}
QUICK = [("bart", "auto"), ("t5", "torch_sdpa")]
TEXT = [
    pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow)
    for case in product(FAMILIES, ("auto", "torch_sdpa"))
    if case[0] != "whisper"
]
PAGE = 4


# ---------------------------------------------------------------------- what it gives


@pytest.mark.parametrize(("name", "backend"), TEXT)
def test_texts_equal_transformers(name: str, backend: str, checkpoints: Any) -> None:
    """Families with biases and without, that scale scores and that do not."""
    folder, model = checkpoints(name)
    options = {"max_num_seqs": 6, "max_model_len": 100, "kv_page_size": 8}
    engine = PlainEngine(folder, **options, **LATENT, decoder_attention_backend=backend)
    start = model.generation_config.decoder_start_token_id
    inputs = mixed_inputs(10, model.config.vocab_size, seed=7)
    for ids, max_new in inputs:
        engine.submit(engine.request(ids, [start], max_new, text_rules(model)))
        engine.step()
    finished = engine.run()
    for number, (ids, max_new) in enumerate(inputs):
        given = torch.tensor(ids[None], dtype=torch.long)
        check_equal(finished[number], *oracle(model, given, [start], max_new))
    check_empty(engine)


def test_a_shipped_text_model_equals_transformers() -> None:
    model = AutoModelForSeq2SeqLM.from_pretrained(T5).eval()
    engine = PlainEngine(T5, **LATENT)
    rng, start = np.random.default_rng(8), model.config.decoder_start_token_id
    texts = [rng.integers(3, model.config.vocab_size, 5 + 4 * i).astype(np.int32) for i in range(3)]
    for ids in texts:
        engine.submit(engine.request(ids, [start], 16, text_rules(model)))
    finished = engine.run()
    for number, ids in enumerate(texts):
        given = torch.tensor(ids[None], dtype=torch.long)
        check_equal(finished[number], *oracle(model, given, [start], 16))


def test_a_shipped_speech_model_gives_what_it_gives() -> None:
    sound = load_audio(RECORDINGS / "call.wav", 16_000)
    generation = json.loads((WHISPER / "generation_config.json").read_text())
    ends = []
    for options in ({}, LATENT):
        engine = PlainEngine(WHISPER, **options)
        assert engine.model.audio is not None
        prompt = [generation["decoder_start_token_id"], generation["no_timestamps_token_id"]]
        rules = DecodingRules(stop_ids=(generation["eos_token_id"],))
        number = engine.submit(
            engine.request(sound[: engine.model.audio.window], prompt, 24, rules)
        )
        ends.append(engine.run()[number])
    assert len(ends[0].token_ids) > 3
    assert ends[1].token_ids == ends[0].token_ids
    np.testing.assert_allclose(ends[1].token_logprobs, ends[0].token_logprobs, atol=2e-4)


def test_speech_equals_transformers(checkpoints: Any) -> None:
    from transformers import WhisperFeatureExtractor

    folder, model = checkpoints("whisper")
    engine = PlainEngine(folder, **LATENT, max_num_seqs=3)
    extractor = WhisperFeatureExtractor.from_pretrained(folder)
    assert engine.model.audio is not None
    sounds, prompt = clips(5, engine.model.audio.window), [61, 63, 65, 66]
    rules = DecodingRules(stop_ids=(60,), suppress=(3, 5, 7), begin_suppress=(60, 9))
    for sound in sounds:
        engine.submit(engine.request(sound, prompt, 12, rules))
    finished = engine.run()
    for number, sound in enumerate(sounds):
        check_equal(finished[number], *speech_oracle(model, extractor, sound, prompt, 12))
    check_empty(engine)


def check_equal(end: Finished, tokens: list[int], logprobs: list[float]) -> None:
    assert end.token_ids == tokens
    got = [token.logprobs[0] for token in end.logprobs]
    np.testing.assert_allclose(got, logprobs, atol=LOGPROB_TOLERANCE)


def check_empty(engine: PlainEngine) -> None:
    """No page of either kind is lost or held."""
    pages = engine.replica.scheduler.pages
    assert pages.cross is not pages
    for pool in (pages, pages.cross):
        pool.check()
        assert pool.num_available == pool.num_pages


@pytest.mark.parametrize(
    "settings",
    [{}, {"attention_bias": True, "attn_logit_softcapping": None}],
    ids=["capped scores", "biases"],
)
def test_grouped_heads(settings: dict[str, Any], tmp_path: Path) -> None:
    model = make_t5gemma(tmp_path, **settings)
    engine = PlainEngine(tmp_path, **LATENT, max_num_seqs=6, kv_page_size=8)
    inputs = mixed_inputs(5, tiny_models.VOCAB, seed=7)
    for ids, most in inputs:
        engine.submit(engine.request(ids, [START], most, text_rules(model)))
    finished = engine.run()
    for number, (ids, most) in enumerate(inputs):
        given = torch.tensor(ids[None], dtype=torch.long)
        check_equal(finished[number], *oracle(model, given, [START], most))


QUICK_COURSES = [("t5", None), ("whisper", Parallel(2)), ("t5", Parallel(1, 2))]
COURSES = [
    pytest.param(*case, marks=() if case in QUICK_COURSES else pytest.mark.slow)
    for case in product(("bart", "t5", "whisper"), (None, Parallel(2), Parallel(1, 2)))
]


@pytest.mark.parametrize(("name", "layout"), COURSES, ids=str)
def test_a_course_with_beams_forks_and_preemptions(
    name: str, layout: Parallel | None, folder_of: Folder
) -> None:
    """Keys and values in one rank, hidden states in one or several: the same ends."""
    kind = "audio" if name == "whisper" else "text"
    folder, few = folder_of(name), {**OPTIONS, "num_kv_pages": 9 if kind == "text" else 8}
    wanted = play(PlainEngine(folder, **OPTIONS, num_kv_pages=PAGES[kind]), kind)
    if layout is None:
        engine = PlainEngine(folder, **few, **LATENT)
        check_same_ends(play(engine, kind), wanted)
        check_course(engine)
        return check_empty(engine)
    with RankedEngine(folder, layout, **few, **LATENT) as ranked:
        check_same_ends(play(ranked, kind), wanted)
        check_course(ranked)
        leader = ranked.replica.runner
        for thread in ranked.followers:
            pool = thread.loaded.result().runner.pool
            assert pool.states is not None
            assert leader.pool.states is not None
            torch.testing.assert_close(pool.states.pages[:-1], leader.pool.states.pages[:-1])


def generate(folder: Path, **options: Any) -> tuple[list[Finished], PlainEngine]:
    engine = PlainEngine(folder, kv_page_size=PAGE, num_kv_pages=200, **options)
    rng = np.random.default_rng(5)
    numbers = []
    for i in range(3):
        sound = rng.standard_normal(16_000).astype(np.float32)
        alignment = Alignment(0, 3, 20)
        request = engine.request(sound, [61, 62, 65], 20 + i, alignment=alignment)
        numbers.append(engine.submit(request))
    ends = engine.run()
    return [ends[number] for number in numbers], engine


@pytest.fixture(scope="module")
def named_heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import WhisperFeatureExtractor

    folder = tmp_path_factory.mktemp("named_heads")
    torch.manual_seed(3)
    model = FAMILIES["whisper"]().eval()
    model.generation_config.alignment_heads = [[0, 1], [1, 0], [1, 2]]
    model.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80, chunk_length=1).save_pretrained(folder)
    return folder


def test_drafts_and_times_of_words(named_heads: Path, tmp_path: Path) -> None:
    """A draft model reads the same pages. Several query tokens of a sequence attend at once."""
    wanted, _ = generate(named_heads)
    first_layers(named_heads, tmp_path, 2)
    drafting = {"speculative_config": {"model": str(tmp_path), "num_speculative_tokens": 7}}
    for options in ({}, drafting):
        ends, engine = generate(named_heads, **LATENT, **options)
        for end, other in zip(ends, wanted, strict=True):
            assert end.token_ids == other.token_ids
            np.testing.assert_allclose(end.token_logprobs, other.token_logprobs, atol=2e-4)
            assert end.frames is not None
            assert list(end.frames) == list(other.frames or ())
        check_empty(engine)
    counters = engine.replica.scheduler.counters
    assert 0 < counters["accepted_draft_tokens"] < counters["draft_tokens"]


@pytest.mark.parametrize("quantization", ["int8", "fp8"])
def test_other_layers_are_quantized(quantization: str, folder_of: Folder) -> None:
    """Those around cross-attention's states stay as they are: nothing is projected there."""
    rng = np.random.default_rng(2)
    payload = rng.integers(3, 60, 20).astype(np.int32)
    ends = []
    for options in ({}, LATENT):
        engine = PlainEngine(folder_of("t5"), quantization=quantization, **options)
        number = engine.submit(engine.request(payload, [2], 8))
        ends.append(engine.run()[number])
    for attention in engine.replica.runner.model.cross_attentions:
        assert attention.absorbed is not None
        assert attention.absorbed.keys.dtype == torch.float32
        assert "kv" not in dict(attention.named_children())
        linear = [m for m in attention.modules() if isinstance(m, Linear)]
        assert linear
        assert all((m.weight_scale is None) == (quantization == "fp8") for m in linear)
    assert all(end.state is RequestState.DONE for end in ends)
    np.testing.assert_allclose(ends[0].token_logprobs[:1], ends[1].token_logprobs[:1], atol=0.2)


def test_states_of_others_make_room(folder_of: Folder) -> None:
    """More clips than there are pages for, one after the other and together."""
    engine = PlainEngine(
        folder_of("bart"), **LATENT, kv_page_size=PAGE, max_num_seqs=3, max_encoder_len=20
    )
    states = engine.replica.runner.pool.states
    assert states is not None
    assert states.num_pages == 2 * 3 * 5
    rng = np.random.default_rng(1)
    for _ in range(15):
        payload = rng.integers(3, 60, 20).astype(np.int32)
        engine.submit(engine.request(payload, [2], 5))
    ends = engine.run()
    assert len(ends) == 15
    assert all(end.state is RequestState.DONE for end in ends.values())
    check_empty(engine)


@pytest.mark.parametrize("name", ["bart", "t5", "whisper"])
def test_float8_states(name: str, folder_of: Folder) -> None:
    """Their norm bounds them, so that none saturates; what comes out is near."""
    rng = np.random.default_rng(4)
    payload: np.ndarray = rng.integers(3, 60, 30).astype(np.int32)
    if name == "whisper":
        payload = rng.standard_normal(16_000).astype(np.float32)
    found = []
    for options in ({}, {"kv_cache_dtype": "fp8"}):
        engine = PlainEngine(folder_of(name), **LATENT, **options)
        number = engine.submit(engine.request(payload, [61, 63], 1))
        found.append(engine.run()[number].logprobs[0].logprobs[0])
    pool = engine.replica.runner.pool
    assert pool.states is not None
    assert pool.states.pages.dtype == torch.float8_e4m3fn
    assert pool.states.factor == engine.replica.runner.model.state_factor != 1
    stored = pool.states.pages.float()
    assert 16 < stored.abs().max() <= 448, "the range is used"
    np.testing.assert_allclose(found[1], found[0], atol=0.3)
    bits = pool.states.pages[0].view(torch.uint8)
    assert pool.states.read(torch.arange(2), torch.float32).shape == (2, bits.shape[-1])
