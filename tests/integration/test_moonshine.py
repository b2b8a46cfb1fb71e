"""Moonshine against transformers, greedy in float32: clips of any length."""

import asyncio
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from oracle import LOGPROB_TOLERANCE, TOLERANCE, oracle
from plain_engine import PlainEngine
from ranked_encoder import ranked_encoder
from ranked_engine import RankedEngine
from tiny_moonshine import END, RATE, SHORTEST, START, make_moonshine, waves
from transformers import PreTrainedModel

from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.errors import CheckpointError, PromptError
from antiphon.config.options import ModelOptions, resolve
from antiphon.config.parallel import Parallel
from antiphon.config.sampling import SamplingParams
from antiphon.encoder.runner import EncoderRunner
from antiphon.engine.async_engine import AsyncEngine
from antiphon.engine.sync_engine import Engine
from antiphon.families.audio_config import WaveformConfig
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.plain_speech import within_speech
from antiphon.inputs.processor import InputProcessor
from antiphon.scheduler.request import Media
from antiphon.serve.errors import ApiError
from antiphon.serve.schemas.audio import TranscriptionBody
from antiphon.serve.service import ServedModel
from antiphon.serve.transcription_options import transcription_options

LENGTH = 14
LENGTHS = (20_000, SHORTEST, 48_000, 9_001, 20_000, 30_720)
OPTIONS = {"max_num_seqs": 4, "kv_page_size": 4}
RULES = DecodingRules(stop_ids=(END,))
Made = tuple[Path, PreTrainedModel]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("moonshine")
    return folder, make_moonshine(folder)


def ask(engine: PlainEngine, clip: np.ndarray, prompt: list[int]) -> None:
    tokens = WaveformConfig().tokens_of(len(clip))
    request = engine.request(None, prompt, LENGTH, RULES)
    request.inputs = (Media(clip.tobytes().hex()[:64], "audio", tokens, clip),)
    engine.submit(request)


def answer(
    model: PreTrainedModel, clip: np.ndarray, prompt: list[int], most: int = LENGTH
) -> tuple[list[int], list[float]]:
    return oracle(model, torch.from_numpy(clip)[None], prompt, most)


def prompts() -> list[list[int]]:
    return [[START], [START, 7, 8], [START], [START], [START, 9], [START]]


@pytest.mark.parametrize("staggered", [False, True])
def test_tokens_and_logprobs_equal_transformers(staggered: bool, made: Made) -> None:
    """`staggered`: requests come while others run, in rounds of three steps."""
    folder, model = made
    engine = PlainEngine(
        folder, **OPTIONS, warm=staggered, num_scheduler_steps=3 if staggered else 1
    )
    clips = waves(*LENGTHS)
    for clip, prompt in zip(clips, prompts(), strict=True):
        ask(engine, clip, prompt)
        if staggered:
            engine.step()
    finished, seen = engine.run(), set()
    for number, (clip, prompt) in enumerate(zip(clips, prompts(), strict=True)):
        tokens, logprobs = answer(model, clip, prompt)
        assert finished[number].token_ids == tokens, f"request {number}"
        got = [token.logprobs[0] for token in finished[number].logprobs]
        np.testing.assert_allclose(got, logprobs, atol=LOGPROB_TOLERANCE)
        seen |= set(tokens)
    assert len(seen) > 15, f"the checkpoint repeats itself: {seen}"


@torch.inference_mode()
def check_hidden(model: PreTrainedModel, runner: EncoderRunner) -> None:
    clips = waves(*LENGTHS)
    encoded = runner.encode(clips)
    for clip, hidden in zip(clips, encoded.hidden.split(encoded.lengths), strict=True):
        wanted = model.model.encoder(torch.from_numpy(clip)[None]).last_hidden_state[0]
        assert hidden.shape == wanted.shape
        assert (hidden - wanted).abs().max() <= TOLERANCE * wanted.abs().max()


@pytest.mark.parametrize("attention_bias", [False, True])
def test_encoder_output_equals_transformers(
    attention_bias: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Clips of mixed lengths in one batch; every tensor is loaded."""
    model = make_moonshine(tmp_path, attention_bias)
    config = resolve(str(tmp_path), {"device": "cpu"})
    with caplog.at_level("WARNING", "antiphon"):
        runner = EncoderRunner(ModelConfig.load(config.model), config)
    assert caplog.messages == []
    check_hidden(model, runner)


@pytest.mark.parametrize(
    "parallel",
    [Parallel(2), pytest.param(Parallel(3, 2), marks=pytest.mark.slow)],
    ids=str,
)
def test_several_ranks_give_what_one_gives(parallel: Parallel, made: Made) -> None:
    """5 heads: uneven shares."""
    folder, model = made
    with ranked_encoder(folder, parallel) as runner:
        check_hidden(model, runner)
    with RankedEngine(folder, parallel, **OPTIONS) as engine:
        for clip, prompt in zip(waves(*LENGTHS), prompts(), strict=True):
            ask(engine, clip, prompt)
        finished = engine.run()
    for number, (clip, prompt) in enumerate(zip(waves(*LENGTHS), prompts(), strict=True)):
        assert finished[number].token_ids == answer(model, clip, prompt)[0]


def test_ranks_that_share_clips_give_the_same(made: Made) -> None:
    with ranked_encoder(made[0], Parallel(2, mode="data")) as runner:
        check_hidden(made[1], runner)


def test_float8_caches_hold_what_is_projected(made: Made) -> None:
    """Keys that are turned, and cross keys of normed states."""
    engine = PlainEngine(made[0], **OPTIONS, kv_cache_dtype="fp8")
    ask(engine, waves(20_000)[0], [START])
    assert engine.run()[0].token_ids


def test_transcribe_and_generate(made: Made) -> None:
    """A transcription ends where nobody would have said more; `generate` at the checkpoint's
    max_length, as in transformers."""
    folder, model = made
    (clip,) = waves(2 * RATE + 100)
    params = SamplingParams(ignore_eos=True)
    with Engine(str(folder), ray=False, device="cpu") as engine:
        told = engine.transcribe((clip, RATE), params=params)
        bounded = engine.transcribe((clip, RATE), params=SamplingParams(max_tokens=3))
        many = engine.transcribe((np.concatenate([clip] * 20), RATE), chunk_seconds=5)
        prompt = {"multi_modal_data": {"audio": (clip, RATE)}}
        outputs = engine.generate([prompt, {**prompt, "prompt": "w7 w8"}], use_tqdm=False)
        silence = engine.transcribe((np.zeros(RATE, np.float32), RATE))
        for options in ({"language": "fr"}, {"task": "translate"}):
            with pytest.raises(PromptError, match="English only"):
                engine.transcribe((clip, RATE), **options)
        for options in ({"mode": "sequential"}, {"word_timestamps": True}):
            with pytest.raises(PromptError, match="tells no times"):
                engine.transcribe((clip, RATE), **options)
        long = {"multi_modal_data": {"audio": (np.ones(31 * RATE, np.float32), RATE)}}
        (refused,) = engine.generate(long, use_tqdm=False)
        (hidden,) = engine.encode([(clip, RATE)])
    tokens, _ = oracle(
        model, torch.from_numpy(clip)[None], [START], 14, eos_token_id=None
    )  # 6.5 a second
    (segment,) = told.segments
    assert segment.token_ids == [token for token in tokens if token not in (START, END)]
    assert (told.language, segment.start, segment.end) == ("en", 0.0, told.duration)
    assert told.text == " ".join(f"w{token}" for token in segment.token_ids if token > 2)
    assert segment.no_speech_prob is None
    assert "window of 30 s" in str(refused.error)
    assert len(bounded.segments[0].token_ids) <= 3
    assert len(many.segments) >= 8
    assert many.segments[-1].end == many.duration
    assert silence.text == ""
    for output, start in zip(outputs, ([START], [START, 7, 8]), strict=True):
        assert output.prompt_token_ids == start
        assert output.outputs[0].token_ids == answer(model, clip, start, 40 - len(start))[0]
    assert hidden.shape == (WaveformConfig().tokens_of(len(clip)), 60)


def test_streamed_text_ends_there_too(made: Made) -> None:
    (clip,) = waves(2 * RATE + 100)

    async def pieces() -> list[Any]:
        params = SamplingParams(ignore_eos=True)
        async with AsyncEngine(str(made[0]), ray=False, device="cpu") as engine:
            return [part async for part in engine.stream_transcription((clip, RATE), params=params)]

    *texts, transcription = asyncio.run(pieces())
    assert transcription.text == "".join(texts)
    assert 7 < len(transcription.segments[0].token_ids) <= 14


def test_tokens_within_what_anyone_says(made: Made) -> None:
    """The caller's number counts where it is smaller, and the checkpoint's max_length."""
    inputs = InputProcessor(ModelConfig.load(ModelOptions(str(made[0]))))

    def most(seconds: float, **params: Any) -> int | None:
        clip = inputs.clip(np.zeros(int(seconds * RATE), np.float32))
        return within_speech(SamplingParams(**params), clip, inputs).max_tokens

    assert [most(0.01), most(1.0), most(2.01), most(29.0)] == [7, 7, 14, 39]
    assert [most(2.0, max_tokens=3), most(2.0, max_tokens=90)] == [3, 13]


def test_a_longest_clip_may_be_set(made: Made) -> None:
    with Engine(str(made[0]), ray=False, device="cpu", max_encoder_len=20) as engine:
        (output,) = engine.generate(
            {"multi_modal_data": {"audio": (waves(RATE)[0], RATE)}}, use_tqdm=False
        )
    assert "1.0 s of audio are 40 tokens, over max_encoder_len=20" in str(output.error)


def test_lengths_are_those_of_the_convolutions() -> None:
    audio = WaveformConfig()
    assert (audio.shortest, audio.tokens_of(SHORTEST), audio.tokens_of(1)) == (SHORTEST, 1, 1)
    assert audio.tokens_of(SHORTEST + 383) == 1
    assert audio.tokens_of(SHORTEST + 384) == 2
    assert audio.tokens == 1248


@pytest.mark.parametrize(
    ("file", "settings", "message"),
    [
        ("config.json", {"decoder_num_key_value_heads": 1}, "5 heads of its decoder for 1"),
        ("config.json", {"rope_parameters": {"partial_rotary_factor": 0.95}}, "11 features"),
        ("preprocessor_config.json", {"do_normalize": True}, "do_normalize=true"),
        ("preprocessor_config.json", {"sampling_rate": 8000}, "sampling_rate=8000"),
    ],
)
def test_what_no_moonshine_has_is_refused(
    file: str, settings: dict[str, object], message: str, made: Made, tmp_path: Path
) -> None:
    shutil.copytree(made[0], tmp_path / "copy")
    path = tmp_path / "copy" / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    with pytest.raises(CheckpointError, match=message):
        _ = ModelConfig.load(ModelOptions(str(tmp_path / "copy"))).audio


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"hotwords": "a name"}, "hotwords"),
        ({"prompt": "a name"}, "prompt"),
        (
            {"response_format": "verbose_json", "timestamp_granularities": ["word"]},
            "timestamp_granularities",
        ),
    ],
)
def test_fields_that_it_cannot_honor(made: Made, fields: dict[str, Any], param: str) -> None:
    inputs = InputProcessor(ModelConfig.load(ModelOptions(str(made[0]))))
    assert not inputs.has_words
    engine: Any = SimpleNamespace(inputs=inputs)
    service: Any = SimpleNamespace(deadline=lambda timeout: 60.0)
    with pytest.raises(ApiError) as caught:
        transcription_options(service, ServedModel("m", engine), TranscriptionBody(**fields))
    assert (caught.value.status, caught.value.param) == (400, param)
