"""transformers with the same configuration, measured in the same run."""

import multiprocessing
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationMixin, StoppingCriteriaList

from antiphon.benchmarks.machine import PeakMemory, seconds
from antiphon.benchmarks.report import Row
from antiphon.benchmarks.serving import Load, RandomInputs, offline_row
from antiphon.encoder.frontends.log_mel import LogMel
from antiphon.families.audio_config import AudioConfig

# Sizes of a batch -> its inputs, and the decoder's prompt.
Make = Callable[[list[float]], tuple[dict[str, Any], list[int]]]


def _model(folder: Path, dtype: torch.dtype, device: str) -> Any:
    from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoModelForSpeechSeq2Seq

    config = AutoConfig.from_pretrained(folder)
    kind = AutoModelForSpeechSeq2Seq if config.model_type == "whisper" else AutoModelForSeq2SeqLM
    previous = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return kind.from_config(config).eval()
    finally:
        torch.set_default_dtype(previous)


class OwnLength:
    """Ends each row at its own length, as an end token would."""

    def __init__(self, prompt: int, lengths: list[int], device: str) -> None:
        self._ends = torch.tensor(lengths, device=device) + prompt

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> Any:
        return input_ids.shape[1] >= self._ends


def throughput(
    folder: Path, load: Load, batch: int, dtype: torch.dtype, device: str = "cuda"
) -> Row:
    """Greedy `generate` in batches of `batch`, in a process of its own.

    In its favor, texts are sorted by length, so that it pads little, and spectrograms are made by
    our code on the device, which is faster than its own.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_throughput, (folder, load, batch, dtype, device))


@torch.inference_mode()
def _throughput(folder: Path, load: Load, batch: int, dtype: torch.dtype, device: str) -> Row:
    model = _model(folder, dtype, device)
    model.generation_config.eos_token_id = None  # random weights: rows end by length alone
    whisper = model.config.model_type == "whisper"
    make = (_sound if whisper else _texts)(model, load.input_size, dtype, device)
    # Whisper's own `generate` adds timestamps and languages around the plain one.
    generate = partial(GenerationMixin.generate, model) if whisper else model.generate

    def run(sizes: list[tuple[float, int]]) -> None:
        inputs, prompt = make([size for size, _ in sizes])
        outputs = [tokens for _, tokens in sizes]
        stop = StoppingCriteriaList([OwnLength(len(prompt), outputs, device)])
        decoder_ids = torch.tensor([prompt] * len(sizes), device=device)
        generate(
            **inputs,
            decoder_input_ids=decoder_ids,
            max_new_tokens=max(outputs),
            do_sample=False,
            num_beams=1,
            stopping_criteria=stop,
        )
        if device == "cuda":
            torch.cuda.synchronize()

    sizes = load.sizes(whisper)
    run([(size, 4) for size, _ in sizes[: batch if device == "cuda" else 1]])
    ordered = sizes if whisper else sorted(sizes)
    with PeakMemory() as memory:
        began = time.perf_counter()
        for first in range(0, len(ordered), batch):
            run(ordered[first : first + batch])
        took = time.perf_counter() - began
    return {"engine": f"transformers, batch {batch}", **offline_row(load, sizes, took, memory)}


def _sound(model: Any, largest: float, dtype: torch.dtype, device: str) -> Make:
    audio = AudioConfig(mel_bins=model.config.num_mel_bins)
    log_mel = LogMel(audio).to(device, torch.float32)
    clips, start = RandomInputs(largest, 0, audio), model.config.decoder_start_token_id

    def make(sizes: list[float]) -> tuple[dict[str, Any], list[int]]:
        samples = torch.zeros(len(sizes), audio.window)
        for row, size in zip(samples.numpy(), sizes, strict=True):
            clip = clips.draw(size)[: audio.window]
            row[: len(clip)] = clip
        features = log_mel(samples.to(device)).to(dtype)
        return {"input_features": features}, [start, start + 1, start + 2, start + 3]

    return make


def _texts(model: Any, largest: float, dtype: torch.dtype, device: str) -> Make:
    texts = RandomInputs(largest, model.config.vocab_size, None)

    def make(sizes: list[float]) -> tuple[dict[str, Any], list[int]]:
        drawn = [torch.from_numpy(texts.draw(size)).long() for size in sizes]
        ids, mask = (
            pad_sequence(rows, batch_first=True).to(device)
            for rows in (drawn, [torch.ones_like(text) for text in drawn])
        )
        return {"input_ids": ids, "attention_mask": mask}, [model.config.decoder_start_token_id]

    return make


@torch.inference_mode()
def encoder(folder: Path, batches: list[int], tokens: int, dtype: torch.dtype) -> list[Row]:
    """transformers' encoder alone, from spectrograms or token ids that are on the device."""
    model = _model(folder, dtype, "cuda").get_encoder()
    rows = []
    for batch in batches:
        if model.config.model_type == "whisper":
            shape = (batch, model.config.num_mel_bins, 2 * model.config.max_source_positions)
            inputs = torch.randn(shape, device="cuda", dtype=dtype)
        else:
            inputs = torch.randint(3, model.config.vocab_size, (batch, tokens), device="cuda")
        took = seconds(partial(model, inputs), 400)
        rows.append(
            {
                "half": "encoder",
                "attention": "transformers, sdpa",
                "batch": batch,
                "ms": took * 1e3,
                "inputs/s": batch / took,
            }
        )
    return rows
