"""The first request of a kind costs what later ones do.

Everything is compiled, loaded and allocated before the engine is ready. Run as a script, this file
measures one engine in a process of its own: `python test_first_request.py MODEL DEVICE
QUANTIZATION`. With the further argument `unprepared`, nothing is made ready
before its first use.
"""

import json
import logging
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numba.core.caching
import numpy as np
import pytest
import torch
from paths import FAKES, T5, WHISPER
from plain_engine import PlainEngine

from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.options import ModelOptions
from antiphon.config.sampling import SamplingParams
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.processor import InputProcessor
from antiphon.kernels.numba_cache import compiled
from antiphon.runtime.openmp import let_idle_threads_sleep

TIMES, LATER, TOKENS = (
    1.5,
    2,
    8,
)  # a first request takes at most so many times the median of so many later ones
SLACK = 0.05  # seconds
ENVIRONMENT = {
    **os.environ,
    "OMP_WAIT_POLICY": "PASSIVE",
    "PYTHONPATH": os.pathsep.join([str(FAKES), *filter(None, [os.environ.get("PYTHONPATH")])]),
}
SAMPLING = {
    "greedy": SamplingParams(),
    "sampling": SamplingParams(temperature=0.7),
    "filters": SamplingParams(temperature=0.7, top_k=20, top_p=0.9, min_p=0.01),
    "logprobs": SamplingParams(logprobs=5),
    "penalties": SamplingParams(
        repetition_penalty=1.1, presence_penalty=0.1, frequency_penalty=0.1
    ),
    "bias": SamplingParams(logit_bias={5: -1.0}),
}


def clock(device: str) -> float:
    """CPU seconds of this process, which other processes don't lengthen.

    With a GPU, the seconds that a caller waits.
    """
    return time.process_time() if device == "cpu" else time.perf_counter()


def leave_unprepared() -> None:
    """As if nobody had thought of first requests."""
    from antiphon.attention.backends import cpu_paged
    from antiphon.decoder.runner import DecoderRunner
    from antiphon.encoder.runner import EncoderRunner
    from antiphon.kernels import cpu_int8

    DecoderRunner.warm_up = EncoderRunner.warm_up = lambda self: None
    cpu_paged.make_ready = cpu_int8.make_ready = lambda *_: None


def measure(
    folder: Path, device: str, quantization: str, unprepared: str = ""
) -> dict[str, list[float]]:
    """Seconds of consecutive requests, by path; paths are in the order of their first use."""
    if unprepared:
        leave_unprepared()
    inputs = InputProcessor(ModelConfig.load(ModelOptions(str(folder))))
    whisper = inputs.whisper
    rules = None if whisper is None else whisper.rules()
    dtype = "float32" if device == "cpu" else "bfloat16"
    engine = PlainEngine(
        folder,
        rules,
        warm=True,
        device=device,
        dtype=dtype,
        quantization=quantization,
        enforce_eager=bool(unprepared),
    )
    payload = iter(_payloads(inputs))

    def request(
        prompt: list[int], params: SamplingParams, timestamps: bool = False, ngram: int = 0
    ) -> None:
        own: DecodingRules = replace(
            inputs.rules(len(prompt), params, timestamps), no_repeat_ngram=ngram
        )
        engine.submit(engine.request(next(payload), prompt, TOKENS, own, params=params))
        engine.run()

    start = [inputs.model.token_id("decoder_start_token_id") or 0]
    prompt = start if whisper is None else whisper.prompt("en", "transcribe", timestamps=False)
    paths: dict[str, Callable[[], None]] = {}
    if whisper is not None:
        with_times = whisper.prompt("en", "transcribe", timestamps=True)
        paths["timestamps"] = lambda: request(with_times, SamplingParams(), timestamps=True)
    paths |= {
        name: lambda params=params: request(prompt, params) for name, params in SAMPLING.items()
    }
    paths["n-grams"] = lambda: request(prompt, SamplingParams(), ngram=3)
    long = inputs.model.max_decoder_len // 2
    paths["long prompt"] = lambda: request([*prompt, *[7] * (long - len(prompt))], SamplingParams())
    seconds: dict[str, list[float]] = {}
    for name, run in paths.items():
        seconds[name] = []
        for _ in range(1 + LATER):
            began = clock(device)
            run()
            seconds[name].append(clock(device) - began)
    return seconds


def _payloads(inputs: InputProcessor) -> "list[np.ndarray]":
    """Inputs that differ: what an encoder has seen once is kept."""
    rng = np.random.default_rng(3)
    if inputs.audio is None:
        return [
            rng.integers(5, inputs.model.encoder.vocab_size, int(length)).astype(np.int32)
            for length in rng.integers(8, 40, 100)
        ]
    return [
        (rng.standard_normal(inputs.audio.sampling_rate) * 0.1).astype(np.float32)
        for _ in range(100)
    ]


def run_script(*arguments: object, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, __file__, *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=250,
        env={**ENVIRONMENT, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def check_first_requests(*arguments: object, **environment: str) -> None:
    for name, (first, *later) in json.loads(run_script(*arguments, **environment)).items():
        usual = statistics.median(later)
        assert first <= TIMES * usual + SLACK, f"{name}: {first:.3f} s, later {usual:.3f}"


@pytest.mark.parametrize(
    ("folder", "quantization"),
    [
        (WHISPER, "none"),
        (T5, "int8"),
        pytest.param(WHISPER, "int8", marks=pytest.mark.slow),
        pytest.param(T5, "none", marks=pytest.mark.slow),
    ],
)
def test_a_first_request_takes_no_longer_than_later_ones(folder: Path, quantization: str) -> None:
    check_first_requests(folder, "cpu", quantization)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("folder", "quantization"), [(WHISPER, "none"), (WHISPER, "fp8"), (T5, "none"), (T5, "int8")]
)
def test_a_first_request_on_a_gpu_takes_no_longer_than_later_ones(
    folder: Path, quantization: str
) -> None:
    check_first_requests(folder, "cuda", quantization)


def check_that_unprepared_ones_are_seen(
    folder: Path, device: str, quantization: str, caches: Path
) -> None:
    """With empty caches, of a machine that runs it for the first time."""
    empty = {"NUMBA_CACHE_DIR": str(caches / "numba"), "TRITON_CACHE_DIR": str(caches / "triton")}
    with pytest.raises(AssertionError, match=r"timestamps: |greedy: "):
        check_first_requests(folder, device, quantization, "unprepared", **empty)


@pytest.mark.slow
def test_it_is_seen_where_a_first_request_compiles(tmp_path: Path) -> None:
    check_that_unprepared_ones_are_seen(T5, "cpu", "none", tmp_path)


@pytest.mark.gpu
def test_it_is_seen_where_a_first_request_on_a_gpu_compiles(tmp_path: Path) -> None:
    check_that_unprepared_ones_are_seen(T5, "cuda", "none", tmp_path)


@pytest.mark.parametrize("folder", [WHISPER, T5])
def test_warming_up_leaves_nothing_behind(folder: Path) -> None:
    engine = PlainEngine(folder, warm=True, max_num_seqs=2, num_kv_pages=200)
    runner = engine.replica.runner
    for layer in runner.pool.layers:
        assert not layer[:, : runner.pool.scratch_page].any(), (
            "a page that a request may get was written"
        )
    assert len(runner.arena) == 0
    assert (runner.slots.host["temperature"] == 0).all()
    assert (runner.slots.host["mask"] == 0).all()
    assert (runner.slots.host["top_logprobs"] == 0).all()


@pytest.mark.slow
def test_kernels_are_compiled_once_for_a_machine(tmp_path: Path) -> None:
    """Two processes that find none compile side by side, and say so; a third one finds theirs."""
    environment = {**ENVIRONMENT, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, __file__, "kernels"]
    both = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=250)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert all("compiling" in output and str(tmp_path) in output for output in said)
    assert "compiling" not in run_script("kernels", NUMBA_CACHE_DIR=str(tmp_path))


def test_kernels_work_where_no_folder_can_be_written_to(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(numba.core.caching.CacheImpl, "_locator_classes", [])
    with caplog.at_level(logging.WARNING, "antiphon"):

        @compiled()
        def double(x: np.ndarray) -> None:
            x *= 2

    assert "NUMBA_CACHE_DIR" in caplog.text
    doubled = np.ones(3)
    double(doubled)
    assert doubled.tolist() == [2, 2, 2]


@pytest.mark.parametrize("said", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "100"}])
def test_idle_threads_sleep_unless_the_environment_says_otherwise(said: dict[str, str]) -> None:
    environment = dict(said)
    let_idle_threads_sleep(environment)
    assert environment == (said or {"OMP_WAIT_POLICY": "PASSIVE"})


def load_kernels() -> None:
    from antiphon.attention.backends.cpu_paged import CpuPaged
    from antiphon.attention.interface import AttentionSpec
    from antiphon.layers.linear import Linear
    from antiphon.layers.quantization.int8 import to_int8

    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
    logging.getLogger("numba").setLevel(logging.WARNING)
    CpuPaged(AttentionSpec("cross", 2, 2, 8, 1.0, torch.float32, torch.device("cpu"), page_size=4))
    to_int8(Linear(4, 4))


if __name__ == "__main__":
    if sys.argv[1] == "kernels":
        load_kernels()
    else:
        print(json.dumps(measure(Path(sys.argv[1]), *sys.argv[2:])))
