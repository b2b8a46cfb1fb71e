"""Train the small Whisper checkpoint of this folder on synthetic speech.

    python examples/whisper_commands/train.py --output examples/whisper_commands/model

Needs espeak-ng and a GPU; takes about eight minutes.
"""

import argparse
import math
import random
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import corpus
import numpy as np
import torch
from checkpoint import WINDOW_SECONDS, build_model, build_tokenizer, generation_config
from codec import noisy, through_random_codec
from jiwer import wer
from scipy.signal import resample_poly
from transformers import WhisperFeatureExtractor, WhisperTokenizer
from windows import RATE, Batches


def synthesize_at_rate(spoken: corpus.Utterance) -> np.ndarray:
    """Samples [n] int16 at RATE. Two in three have noise and went through a lossy codec."""
    samples = resample_poly(corpus.synthesize(spoken), 320, 441)  # 22,050 Hz to 16 kHz
    samples = samples / np.abs(samples).max() * 0.7
    rng = random.Random(repr(spoken))
    if rng.random() < 0.67:
        samples = through_random_codec(noisy(samples, RATE, rng, 8, 45), RATE, rng)
    return (np.clip(samples, -1, 1) * 32767).astype(np.int16)


def log_mel(samples: torch.Tensor, filters: torch.Tensor) -> torch.Tensor:
    """[batch, n] -> [batch, mels, frames], as WhisperFeatureExtractor computes it."""
    window = torch.hann_window(400, device=samples.device)
    power = torch.stft(samples, 400, 160, window=window, return_complex=True)[..., :-1].abs() ** 2
    logs = torch.clamp(filters.T @ power, min=1e-10).log10()
    return (torch.maximum(logs, logs.amax((1, 2), keepdim=True) - 8.0) + 4.0) / 4.0


def learning_rate(peak: float, step: int, done: float) -> float:
    """Linear warm-up over 400 steps, then a cosine. `done`: the share of training, 0 to 1."""
    return peak * min(step / 400, 1) * (0.5 * (1 + math.cos(math.pi * done)) * 0.99 + 0.01)


def build_optimizer(model: Any) -> torch.optim.Optimizer:
    """Weights decay; norms and biases do not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": 0.05},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98))


def train(
    model: Any,
    batches: Batches,
    filters: torch.Tensor,
    *,
    seconds: float,
    batch_size: int,
    peak_lr: float,
) -> None:
    """`filters`: mel filter bank [frequencies, mels] on the model's device."""
    optimizer = build_optimizer(model)
    began, step = time.perf_counter(), 0
    while (done := (time.perf_counter() - began) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(peak_lr, step, done)
        samples, inputs, labels = batches.batch(batch_size)
        features = log_mel(samples, filters)
        with torch.autocast(filters.device.type, torch.bfloat16):
            logits = model(input_features=features, decoder_input_ids=inputs).logits
        loss = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), labels.flatten(), ignore_index=-100
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 200 == 0:
            passed = time.perf_counter() - began
            print(f"step {step} loss {loss.item():.4f} {passed:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--utterances", type=int, default=50_000)
    parser.add_argument("--seconds", type=float, default=345, help="training time")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--peak-lr", type=float, default=2e-3)
    arguments = parser.parse_args()
    folder, count = arguments.output, arguments.utterances
    folder.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = True

    rng = random.Random(7)
    began = time.perf_counter()
    spoken = [corpus.utterance(rng, corpus.TRAINING_VARIANTS) for _ in range(count)]
    held_out = [corpus.utterance(rng, corpus.HELD_OUT_VARIANTS) for _ in range(min(200, count))]
    with ProcessPoolExecutor() as pool:
        audio = list(pool.map(synthesize_at_rate, spoken + held_out, chunksize=64))
    passed = time.perf_counter() - began
    print(f"synthesized {len(audio)} utterances in {passed:.0f} s", flush=True)

    ids = build_tokenizer(folder)
    model = build_model(ids).to(device)
    model.generation_config = generation_config(ids)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    print(f"{millions:.2f} M parameters, vocabulary {len(ids)}", flush=True)
    extractor = WhisperFeatureExtractor(feature_size=80, chunk_length=WINDOW_SECONDS)
    train(
        model,
        Batches(folder, spoken, audio[: len(spoken)], ids, device),
        torch.tensor(np.asarray(extractor.mel_filters), dtype=torch.float32, device=device),
        seconds=arguments.seconds,
        batch_size=arguments.batch_size,
        peak_lr=arguments.peak_lr,
    )
    model.eval().half()
    model.config.dropout = 0.0
    model.config.dtype = "float16"
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    model.float()
    check(folder, model, extractor, held_out, audio[len(spoken) :])


def check(
    folder: Path,
    model: Any,
    extractor: Any,
    held_out: list[corpus.Utterance],
    audio: list[np.ndarray],
) -> None:
    """Prints transformers' word error rate on held-out speech. The engine's: evaluate.py."""
    tokenizer = WhisperTokenizer.from_pretrained(folder)
    heard = []
    for spoken, samples in zip(held_out, audio, strict=True):
        features = extractor(
            samples.astype(np.float32) / 32768, sampling_rate=RATE, return_tensors="pt"
        ).input_features
        with torch.no_grad():
            ids = model.generate(
                features.to(model.device), language=spoken.language, task="transcribe"
            )
        heard.append(tokenizer.decode(ids[0], skip_special_tokens=True))
    errors = wer([spoken.text for spoken in held_out], heard)
    print(f"held-out: word error rate {100 * errors:.2f} %", flush=True)


if __name__ == "__main__":
    main()
