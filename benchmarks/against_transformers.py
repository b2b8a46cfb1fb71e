"""Requests/s and tokens/s of Antiphon beside transformers' generate: same checkpoint, same 64 requests, one run, this machine.

    python benchmarks/against_transformers.py [whisper-base|flan-t5-base] [--requests 64] [--json FILE]

Random weights of the published sizes. Output lengths are mixed (most are short, some long), as traffic is. transformers runs in
batches of every size given by --batch-sizes; its best one counts. Its rows stop at their own length, and text inputs are sorted by
length so that it pads little. Each engine has its own process; peak memory is the proportional set size of all its processes.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

EXAMPLES = Path(__file__).parents[1] / "examples"
SEED = 17


@dataclass
class Run:
    engine: str
    seconds: float
    requests_per_second: float
    tokens_per_second: float
    peak_memory_gib: float


def make_checkpoint(name: str, folder: Path) -> None:
    """The published configuration with random weights; a tokenizer comes along because the engine wants one."""
    import torch
    from transformers import GenerationConfig, T5Config, T5ForConditionalGeneration, WhisperConfig, WhisperForConditionalGeneration

    torch.manual_seed(SEED)
    if name == "whisper-base":
        config = WhisperConfig(
            vocab_size=51865, d_model=512, encoder_layers=6, decoder_layers=6, encoder_attention_heads=8, decoder_attention_heads=8,
            encoder_ffn_dim=2048, decoder_ffn_dim=2048, suppress_tokens=None, begin_suppress_tokens=None,
        )  # fmt: skip
        model: Any = WhisperForConditionalGeneration(config)
        model.generation_config = GenerationConfig(
            decoder_start_token_id=50258, eos_token_id=50257, pad_token_id=50257, bos_token_id=50257, no_timestamps_token_id=50363,
            is_multilingual=True, lang_to_id={"<|en|>": 50259}, task_to_id={"transcribe": 50359, "translate": 50358}, max_length=448,
        )  # fmt: skip
        tokenizer = "whisper_commands"
    else:
        config = T5Config(
            vocab_size=32128, d_model=768, d_kv=64, d_ff=2048, num_layers=12, num_decoder_layers=12, num_heads=12,
            feed_forward_proj="gated-gelu", tie_word_embeddings=False, decoder_start_token_id=0,
        )  # fmt: skip
        model = T5ForConditionalGeneration(config)
        tokenizer = "t5_numbers"
    model.save_pretrained(folder)
    for file in (EXAMPLES / tokenizer / "model").iterdir():
        if "token" in file.name or file.name in ("vocab.json", "merges.txt"):
            shutil.copy(file, folder)


def make_requests(name: str, count: int) -> tuple[list[np.ndarray], list[int]]:
    """Inputs (30 s of sound, or token ids of mixed lengths) and output lengths: log-normal around 40, at most 300."""
    rng = np.random.default_rng(SEED)
    outputs = np.clip(rng.lognormal(np.log(40), 0.9, count), 4, 300).astype(int).tolist()
    if name == "whisper-base":
        return [(rng.standard_normal(480_000) * 0.1).astype(np.float32) for _ in range(count)], outputs
    return [rng.integers(3, 32_000, int(length)).astype(np.int32) for length in rng.integers(20, 400, count)], outputs


class PeakMemory:
    """Samples the proportional set size of this process and its descendants, and of Ray's, every 0.2 s."""

    def __init__(self) -> None:
        self.peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(0.2):
            total = 0
            for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:
                    continue
            self.peak = max(self.peak, total)


def run_antiphon(name: str, folder: Path, inputs: list[np.ndarray], outputs: list[int], options: dict[str, Any]) -> Run:
    import asyncio

    from antiphon import AsyncEngine, SamplingParams

    async def run() -> Run:
        async with AsyncEngine(
            str(folder), device="cpu", max_encoder_len=1500 if name == "whisper-base" else 512, **options
        ) as engine:

            def prompt(array: np.ndarray) -> Any:
                if name == "whisper-base":
                    return {"prompt_token_ids": [50258, 50259, 50359, 50363], "multi_modal_data": {"audio": (array, 16_000)}}
                return {"prompt_token_ids": array.tolist()}

            await engine.generate(prompt(inputs[0][:100]), SamplingParams(max_tokens=4, ignore_eos=True))
            with PeakMemory() as memory:
                began = time.perf_counter()
                results = await asyncio.gather(
                    *(
                        engine.generate(prompt(array), SamplingParams(max_tokens=length, ignore_eos=True))
                        for array, length in zip(inputs, outputs, strict=True)
                    )
                )
                seconds = time.perf_counter() - began
            assert [len(result.outputs[0].token_ids) for result in results] == outputs
            return _run("antiphon", seconds, outputs, memory)

    return asyncio.run(run())


def run_transformers(name: str, folder: Path, inputs: list[np.ndarray], outputs: list[int], batch_size: int) -> Run:
    import torch
    from transformers import StoppingCriteria, StoppingCriteriaList, T5ForConditionalGeneration, WhisperForConditionalGeneration

    class OwnLength(StoppingCriteria):
        """Ends each row at its own length, as an end token would."""

        def __init__(self, prompt: int, lengths: list[int]) -> None:
            self.ends = torch.tensor(lengths) + prompt

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
            return input_ids.shape[1] >= self.ends

    whisper = name == "whisper-base"
    model: Any = (WhisperForConditionalGeneration if whisper else T5ForConditionalGeneration).from_pretrained(folder).eval()
    model.generation_config.eos_token_id = None  # rows end by length alone; a random model's end token means nothing
    order = range(len(inputs)) if whisper else sorted(range(len(inputs)), key=lambda i: len(inputs[i]))
    batches = [list(order)[at : at + batch_size] for at in range(0, len(inputs), batch_size)]
    generate: Callable[..., Any] = super(WhisperForConditionalGeneration, model).generate if whisper else model.generate

    def run_batch(rows: list[int]) -> None:
        lengths = [outputs[i] for i in rows]
        if whisper:
            from antiphon.inputs.features import AudioConfig, LogMel  # the peer gets the same fast features

            given: dict[str, Any] = {"input_features": LogMel(AudioConfig())(torch.from_numpy(np.stack([inputs[i] for i in rows])))}
            prompt = [50258, 50259, 50359, 50363]
        else:
            longest = max(len(inputs[i]) for i in rows)
            ids = torch.zeros(len(rows), longest, dtype=torch.long)
            for row, i in enumerate(rows):
                ids[row, : len(inputs[i])] = torch.from_numpy(inputs[i])
            given = {"input_ids": ids, "attention_mask": (ids != 0).long()}
            prompt = [0]
        generate(
            **given,
            decoder_input_ids=torch.tensor([prompt] * len(rows)),
            max_new_tokens=max(lengths),
            do_sample=False,
            num_beams=1,
            stopping_criteria=StoppingCriteriaList([OwnLength(len(prompt), lengths)]),
        )

    with torch.inference_mode(), PeakMemory() as memory:
        began = time.perf_counter()
        for rows in batches:
            run_batch(rows)
        seconds = time.perf_counter() - began
    return _run(f"transformers, batch {batch_size}", seconds, outputs, memory)


def _run(engine: str, seconds: float, outputs: list[int], memory: PeakMemory) -> Run:
    return Run(engine, seconds, len(outputs) / seconds, sum(outputs) / seconds, memory.peak / 2**30)


def _in_process(target: Callable[..., Run], *arguments: Any) -> Run:
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return pool.apply(target, arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["whisper-base", "flan-t5-base"])
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--batch-sizes", type=int, nargs="*", default=[16, 64])
    parser.add_argument("--max-num-seqs", type=int, default=32)
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="an engine option")
    parser.add_argument("--skip-transformers", action="store_true")
    parser.add_argument("--skip-antiphon", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    options = {"max_num_seqs": arguments.max_num_seqs}
    options |= {
        name: int(value) if value.isdigit() else value for name, _, value in (each.partition("=") for each in arguments.option)
    }
    report: dict[str, Any] = {"machine": {"cpus": os.cpu_count(), "options": options}, "models": {}}
    for name in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            make_checkpoint(name, Path(folder))
            inputs, outputs = make_requests(name, arguments.requests)
            lengths = f"output lengths {min(outputs)} to {max(outputs)}, median {statistics.median(outputs):g}, mean {statistics.mean(outputs):.0f}"
            print(f"\n{name}: {len(inputs)} requests, {lengths}", flush=True)
            runs = [] if arguments.skip_antiphon else [_in_process(run_antiphon, name, Path(folder), inputs, outputs, options)]
            print(*runs, flush=True)
            if not arguments.skip_transformers:
                for size in arguments.batch_sizes:
                    runs.append(_in_process(run_transformers, name, Path(folder), inputs, outputs, size))
                    print(runs[-1], flush=True)
            mine, *peers = runs
            if peers and not arguments.skip_antiphon:
                best = min(peers, key=lambda run: run.seconds)
                print(f"{name}: {best.seconds / mine.seconds:.2f} times {best.engine}", flush=True)
            report["models"][name] = [asdict(run) for run in runs]
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
