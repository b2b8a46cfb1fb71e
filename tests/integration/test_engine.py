"""Through real Ray actors: the tokens of the plain objects, many callers, errors, orderly ends."""

import asyncio
import json
import time
from pathlib import Path

import numpy as np
import pytest
from paths import RECORDINGS
from plain_engine import PlainEngine

from antiphon import AsyncEngine, Engine, SamplingParams
from antiphon.actors.processes import birth
from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.errors import (
    AttentionBackendError,
    CheckpointError,
    ConfigurationError,
    EngineDeadError,
    PromptError,
    RequestExpired,
    RequestFailed,
    RequestRefused,
    SamplingError,
)
from antiphon.inputs.audio.forms import load_audio

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture
def t5(numbers_over_ray: Engine) -> Engine:
    return numbers_over_ray


@pytest.fixture(scope="module")
def whisper(ray_cluster: None, whisper_folder: Path):
    with Engine(str(whisper_folder), max_num_seqs=8) as engine:
        yield engine


def recording(name: str) -> np.ndarray:
    return load_audio(RECORDINGS / name, 16_000)


def test_the_same_tokens_as_the_plain_objects(t5: Engine, t5_folder: Path) -> None:
    numbers = [3, 17, 407, 99_000, 123_456, 5, 999_999, 60, 1_001, 70_070]
    outputs = t5.generate([f"in words: {number}" for number in numbers], use_tqdm=False)
    plain = PlainEngine(t5_folder)
    tokenizer = t5._async.inputs.tokenizer
    for number in numbers:
        ids = np.array(tokenizer(f"in words: {number}").input_ids, np.int32)
        plain.submit(plain.request(ids, [0], 60, DecodingRules(stop_ids=(1,))))
    finished = plain.run()
    assert [output.outputs[0].token_ids for output in outputs] == [
        finished[i].token_ids for i in range(len(numbers))
    ]
    assert outputs[2].outputs[0].text == "four hundred seven"
    assert outputs[2].outputs[0].finish_reason == "stop"
    assert outputs[2].prompt_token_ids == [0]


def test_recordings_of_every_format_and_length(whisper: Engine) -> None:
    expected = json.loads((RECORDINGS / "expected.json").read_text())
    results = whisper.transcribe_all([RECORDINGS / name for name in expected], chunk_seconds=3.0)
    assert [result.text for result in results] == list(expected.values())
    long = results[list(expected).index("long.opus")]
    assert long.duration > 20
    assert len(long.segments) >= 5
    for segment, following in zip(long.segments, long.segments[1:], strict=False):
        assert 0 <= segment.start < segment.end <= following.start + 0.05
    assert long.segments[-1].end <= long.duration
    assert {result.language for result in results} == {"en", "de"}


def test_translation_and_a_given_language(whisper: Engine) -> None:
    assert (
        whisper.transcribe(RECORDINGS / "wecker.wav", task="translate").text
        == "wake me up tomorrow at four"
    )
    assert (
        whisper.transcribe(RECORDINGS / "wecker.wav", language="de", timestamps=False).text
        == "wecke mich morgen um vier"
    )


def test_silence_gives_no_text_and_no_work(whisper: Engine) -> None:
    before = whisper.stats()["encodes"]
    silence = whisper.transcribe((np.zeros(20 * 16_000, np.float32), 16_000))
    assert (silence.text, silence.segments, silence.duration) == ("", [], 20.0)
    assert whisper.stats()["encodes"] == before


def test_one_clip_under_several_prompts_is_encoded_once(whisper: Engine) -> None:
    clip = recording("call.wav") * 0.987
    before = whisper.stats()
    prompts = [
        {"prompt": prompt, "multi_modal_data": {"audio": (clip, 16_000)}}
        for prompt in (
            "<|en|><|transcribe|><|notimestamps|>",
            "<|en|><|transcribe|>",
            "<|de|><|translate|><|notimestamps|>",
        )
    ]
    outputs = whisper.generate(prompts, use_tqdm=False)
    samples = whisper.generate(
        prompts[0], SamplingParams(n=4, temperature=0.8, seed=1), use_tqdm=False
    )
    after = whisper.stats()
    assert after["encodes"] - before.get("encodes", 0) == 1
    assert after["done"] - before.get("done", 0) == 7
    assert outputs[0].outputs[0].text.strip() == "call seven nine zero"
    assert len(samples[0].outputs) == 4


def test_streaming_gives_the_result_piece_by_piece(whisper: Engine) -> None:
    prompt = {"multi_modal_data": {"audio": RECORDINGS / "light.flac"}}
    deltas = list(whisper.stream(prompt))
    assert "".join(delta.text for delta in deltas).strip() == "turn on the radio in the office"
    assert [delta.finish_reason for delta in deltas][-1] == "stop"
    assert all(delta.finish_reason is None for delta in deltas[:-1])
    whole = whisper.generate(prompt, use_tqdm=False)[0].outputs[0]
    assert [token for delta in deltas for token in delta.token_ids] == whole.token_ids[:-1]


def test_leaving_a_stream_cancels_it(t5: Engine) -> None:
    before = t5.stats().get("cancelled", 0)
    stream = t5.stream("in words: 123456", SamplingParams(ignore_eos=True))
    next(stream)
    stream.close()
    deadline = time.time() + 10
    while t5.stats()["open"] and time.time() < deadline:
        time.sleep(0.02)
    assert t5.stats()["cancelled"] == before + 1


def test_stop_strings(t5: Engine) -> None:
    params = SamplingParams(stop=["hundred"])
    (output,) = t5.generate("in words: 407", params, use_tqdm=False)
    assert (output.outputs[0].text.strip(), output.outputs[0].finish_reason) == ("four", "stop")
    text = "".join(delta.text for delta in t5.stream("in words: 407", params))
    assert text.strip() == "four"


def test_seeds_give_the_same_text_alone_and_in_a_crowd(t5: Engine) -> None:
    params = SamplingParams(temperature=20.0, seed=5, max_tokens=12)
    alone = t5.generate("in words: 51", params, use_tqdm=False)[0].outputs[0].token_ids
    crowd = t5.generate(
        ["in words: 51", *(f"in words: {number}" for number in range(100, 130))],
        params,
        use_tqdm=False,
    )
    assert crowd[0].outputs[0].token_ids == alone
    other = t5.generate(
        "in words: 51", SamplingParams(temperature=20.0, seed=6, max_tokens=12), use_tqdm=False
    )
    assert other[0].outputs[0].token_ids != alone


def test_logprobs(t5: Engine) -> None:
    (output,) = t5.generate("in words: 40", SamplingParams(logprobs=3), use_tqdm=False)
    completion = output.outputs[0]
    assert completion.logprobs is not None
    assert len(completion.logprobs) == len(completion.token_ids)
    for token, candidates in zip(completion.token_ids, completion.logprobs, strict=True):
        assert candidates[token].rank == 1
        assert len(candidates) == 3
        assert all(value.logprob <= 0 for value in candidates.values())
    assert completion.logprobs[0][completion.token_ids[0]].decoded_token.strip() == "forty"


def test_bad_requests_fail_alone_with_their_own_errors(whisper: Engine) -> None:
    good = {"multi_modal_data": {"audio": RECORDINGS / "call.wav"}}
    bad = [
        {"multi_modal_data": {"audio": b"noise"}},
        {"multi_modal_data": {"audio": (np.array([np.nan], np.float32), 16_000)}},
        {"multi_modal_data": {"audio": "/no/such.wav"}},
        {"prompt": "only text"},
        {"prompt_token_ids": [10**6], **good},
        {"nonsense": 1},
    ]
    began = time.perf_counter()
    outputs = whisper.generate([bad[0], good, *bad[1:], good], use_tqdm=False)
    assert time.perf_counter() - began < 5
    assert [output.error is None for output in outputs] == [
        False,
        True,
        False,
        False,
        False,
        False,
        False,
        True,
    ]
    assert outputs[1].outputs[0].text == outputs[-1].outputs[0].text
    with pytest.raises(PromptError, match="unknown key 'nonsense'"):
        _ = outputs[6].outputs


def test_errors_of_single_calls(whisper: Engine, t5: Engine) -> None:
    with pytest.raises(PromptError, match="unknown language 'klingon'"):
        whisper.transcribe(RECORDINGS / "call.wav", language="klingon")
    with pytest.raises(PromptError, match=r"unknown task 'transcibe'\. Did you mean 'transcribe'"):
        whisper.transcribe(RECORDINGS / "call.wav", task="transcibe")
    with pytest.raises(
        PromptError, match="chunk_seconds must be between 1 and the model's window of 8, not 30"
    ):
        whisper.transcribe(RECORDINGS / "call.wav", chunk_seconds=30)
    with pytest.raises(PromptError, match="does not transcribe audio"):
        t5.transcribe(RECORDINGS / "call.wav")
    with pytest.raises(SamplingError, match="one sample"):
        next(t5.stream("in words: 1", SamplingParams(n=2, temperature=1.0)))
    (refused,) = t5.generate("in words: 1", SamplingParams(max_tokens=5000), use_tqdm=False)
    assert isinstance(refused.error, RequestRefused)
    assert "max_tokens=5000" in str(refused.error)


def test_a_request_past_its_deadline_expires_and_others_go_on(t5: Engine) -> None:
    late = t5.generate(
        ["in words: 7"] * 40,
        SamplingParams(ignore_eos=True, max_tokens=400),
        use_tqdm=False,
        timeout=0.05,
    )
    assert any(isinstance(output.error, RequestExpired) for output in late)
    assert t5.generate("in words: 8", use_tqdm=False)[0].outputs[0].text == "eight"


@pytest.mark.slow  # as without Ray
def test_a_tiny_pool_preempts_and_gives_the_same_text(t5: Engine, t5_folder: Path) -> None:
    prompts = [f"in words: {number}" for number in range(100_111, 100_135)]
    with Engine(
        str(t5_folder), num_kv_pages=12, kv_page_size=4, max_model_len=20, max_encoder_len=12
    ) as small:
        outputs = small.generate(
            prompts, SamplingParams(max_tokens=16, ignore_eos=True), use_tqdm=False
        )
        assert small.stats()["preemptions"] > 0
        assert small.stats()["kv_pages_available"] == 12
    wanted = t5.generate(prompts, SamplingParams(max_tokens=16, ignore_eos=True), use_tqdm=False)
    assert [output.outputs[0].token_ids for output in outputs] == [
        output.outputs[0].token_ids for output in wanted
    ]


@pytest.mark.parametrize("encoders", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_many_async_callers_and_cancellation(t5_folder: Path, encoders: int) -> None:
    async def run() -> None:
        options = {"encoder_replicas": encoders, "decoder_replicas": 2}
        async with AsyncEngine(str(t5_folder), **options) as engine:
            tasks = [
                asyncio.create_task(engine.generate(f"in words: {number}")) for number in range(60)
            ]
            victim = asyncio.create_task(
                engine.generate("in words: 999", SamplingParams(ignore_eos=True, max_tokens=500))
            )
            while not (await engine.stats()).get("done"):  # the victim's turn is far from over
                await asyncio.sleep(0.01)
            victim.cancel()
            outputs = await asyncio.gather(*tasks)
            assert [output.outputs[0].text for output in outputs[:4]] == [
                "zero",
                "one",
                "two",
                "three",
            ]
            with pytest.raises(asyncio.CancelledError):
                await victim
            for _ in range(200):
                if not (await engine.stats())["open"]:
                    break
                await asyncio.sleep(0.02)
            stats = await engine.stats()
            assert (stats["open"], stats["done"], stats["cancelled"]) == (0, 60, 1)
            assert stats["kv_pages_available"] == stats["kv_pages"]
            async with asyncio.timeout(20):  # a report from before the ends may come last
                while engine.requests.router.load_of("decoder-0"):
                    await asyncio.sleep(0.02)

    asyncio.run(run())


@pytest.mark.slow  # fast, of one engine: test_another_process_shares_the_workers_until_...
def test_two_engines_in_one_cluster_and_no_actor_left_behind(
    t5: Engine, whisper: Engine, t5_folder: Path
) -> None:
    workers = Engine(str(t5_folder))
    assert workers.generate("in words: 3", use_tqdm=False)[0].outputs[0].text == "three"
    assert t5.generate("in words: 4", use_tqdm=False)[0].outputs[0].text == "four"
    spots = workers._loop_thread.run(workers.workers.processes())
    assert set(spots) == {"encoder-0", "decoder-0"}
    workers.close()
    workers.close()
    assert [birth(spot.pid) for spot in spots.values()] == [None, None]
    with pytest.raises(EngineDeadError, match="closed"):
        workers.generate("in words: 3")


@pytest.mark.slow  # fast: without Ray, test_a_call_behind_the_loops_end_is_refused
def test_open_requests_end_when_the_engine_closes(t5_folder: Path) -> None:
    async def run() -> None:
        engine = await AsyncEngine(str(t5_folder)).start()
        task = asyncio.create_task(
            engine.generate("in words: 9", SamplingParams(ignore_eos=True, max_tokens=500))
        )
        while not (await engine.stats())["open"]:
            await asyncio.sleep(0.01)
        await engine.close()
        with pytest.raises(EngineDeadError, match="closed"):
            await task
        with pytest.raises(EngineDeadError):
            await engine.generate("in words: 9")

    asyncio.run(run())


def test_what_the_loading_raises_comes_through_unchanged(t5_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        AttentionBackendError, match="encoder_attention_backend='cpu_paged' cannot be used"
    ):
        Engine(str(t5_folder), encoder_attention_backend="cpu_paged")
    with pytest.raises(ConfigurationError, match="Did you mean 'max_num_seqs'"):
        Engine(str(t5_folder), max_num_seq=4)
    with pytest.raises(CheckpointError, match="no such folder"):
        Engine(str(tmp_path / "absent"))
    with pytest.raises(ConfigurationError, match=r"no GPU|no CUDA"):
        Engine(str(t5_folder), device="cuda")


def test_a_failing_encoder_batch_fails_only_the_bad_input(whisper: Engine) -> None:
    """A payload that breaks the model is run again alone; the others of its batch succeed."""

    async def run() -> None:
        engine = whisper._async
        params = SamplingParams(max_tokens=5)
        good = await engine.run_in_thread(
            engine.inputs.prepare,
            {"prompt": "<|en|>", "multi_modal_data": {"audio": RECORDINGS / "door.mp3"}},
            params,
        )
        from dataclasses import replace

        broken = replace(
            good,
            inputs=(replace(good.media, key="broken", payload=np.zeros(10**6, np.float32)),),
        )
        opened = [engine.submit(prepared, prepared.prompt_token_ids) for prepared in (good, broken)]
        results = await asyncio.gather(
            *(engine.result(request) for request in opened), return_exceptions=True
        )
        assert not isinstance(results[0], BaseException)
        assert isinstance(results[1], RequestFailed)
        assert "the encoder failed" in str(results[1])

    whisper._loop_thread.run(run())
