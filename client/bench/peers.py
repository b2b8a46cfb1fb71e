"""transformers on the same configuration, for comparison in the same run."""

import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from antiphon.client.bench.machine import seconds
from antiphon.client.bench.report import Row
from antiphon.client.bench.serving import SEED, Load
from antiphon.inputs.features import AudioConfig, LogMel


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


@torch.inference_mode()
def throughput(folder: Path, load: Load, batch: int, dtype: torch.dtype, device: str = "cuda") -> Row:
    """`generate` in batches of `batch`, greedy; spectrograms by our own code on the device, which is faster than theirs."""
    model = _model(folder, dtype, device)
    model.generation_config.eos_token_id = None  # random weights: rows end by length alone
    rng = np.random.default_rng(SEED)
    whisper = model.config.model_type == "whisper"
    generate = model.generate
    if whisper:  # Whisper's own generate looks for timestamps and languages; the plain one is what it calls
        from transformers import GenerationMixin

        generate = lambda **given: GenerationMixin.generate(model, **given)
        audio = AudioConfig(mel_bins=model.config.num_mel_bins)
        log_mel = LogMel(audio).to(device, torch.float32)

    def run() -> None:
        if whisper:
            samples = torch.from_numpy((rng.standard_normal((batch, audio.window)) * 0.1).astype(np.float32)).to(device)
            given: dict[str, Any] = {"input_features": log_mel(samples).to(dtype)}
            start = model.config.decoder_start_token_id
            prompt = [start, start + 1, start + 2, start + 3]
        else:
            ids = torch.from_numpy(rng.integers(3, model.config.vocab_size, (batch, int(load.input_size)))).to(device)
            given, prompt = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, [model.config.decoder_start_token_id]
        decoder_ids = torch.tensor([prompt] * batch, device=device)
        generate(**given, decoder_input_ids=decoder_ids, max_new_tokens=load.output_tokens, do_sample=False, num_beams=1)
        if device == "cuda":
            torch.cuda.synchronize()

    run()
    rounds = max(1, load.requests // batch)
    began = time.perf_counter()
    for _ in range(rounds):
        run()
    took = time.perf_counter() - began
    return {
        "engine": f"transformers, batch {batch}", "requests": rounds * batch, "input": load.input_size,
        "output_tokens": load.output_tokens, "seconds": took, "requests/s": rounds * batch / took,
        "tokens/s": rounds * batch * load.output_tokens / took,
    }  # fmt: skip


@torch.inference_mode()
def encoder(folder: Path, batches: list[int], tokens: int, dtype: torch.dtype) -> list[Row]:
    """Its encoder alone, from spectrograms or token ids on the device, with torch's attention."""
    model = _model(folder, dtype, "cuda").get_encoder()
    rows = []
    for batch in batches:
        if model.config.model_type == "whisper":
            shape = (batch, model.config.num_mel_bins, 2 * model.config.max_source_positions)
            given = torch.randn(shape, device="cuda", dtype=dtype)
        else:
            given = torch.randint(3, model.config.vocab_size, (batch, tokens), device="cuda")
        took = seconds(partial(model, given), 400)
        rows.append(
            {"half": "encoder", "attention": "transformers, sdpa", "batch": batch, "ms": took * 1e3, "inputs/s": batch / took}
        )
    return rows
