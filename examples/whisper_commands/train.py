"""Train the small Whisper checkpoint of this folder on synthetic speech.

From nothing, in about eight minutes on a GPU:

    python examples/whisper_commands/train.py --output FOLDER

Only the decoder of a trained one, in half an hour on a CPU; each sound is encoded once:

    python examples/whisper_commands/train.py --output FOLDER --from MODEL --utterances 1600
        --coded 0.25 --windows 1280 --seconds 1500 --batch-size 16 --peak-lr 4e-4 --warm-up 50

Needs espeak-ng.
"""

import argparse
import math
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import corpus
import numpy as np
import torch
from batches import Drawn, Padded, Sounds, by_length, log_mel, padded
from checkpoint import END, RATE, WINDOW_SECONDS, build_model, build_tokenizer, generation_config
from guidance import Attention, guidance_loss
from labels import Labeler
from speech import synthesize_all
from torch.utils.data import DataLoader
from transformers import (
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)
from windows import Window, Windows

GUIDANCE = 0.3  # weight of the alignment heads' loss
WORKERS = min(8, os.cpu_count() or 1)  # processes that draw windows and label them
Batch = tuple[dict[str, Any], Padded]  # what the model hears, and what is said there


def learning_rate(peak: float, step: int, warm_up: int, done: float) -> float:
    """Linear warm-up, then a cosine. `done`: the share of training, 0 to 1."""
    return peak * min(step / warm_up, 1) * (0.5 * (1 + math.cos(math.pi * done)) * 0.99 + 0.01)


def build_optimizer(model: Any) -> torch.optim.Optimizer:
    """Weights decay; norms and biases do not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": 0.05},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98))


def fresh(drawn: Drawn, sounds: Sounds, filters: torch.Tensor) -> Iterator[Batch]:
    """New windows without end. `filters`: mel filter bank [frequencies, mels]."""
    loader = DataLoader(drawn, batch_size=None, num_workers=WORKERS, prefetch_factor=4)
    for windows, labels in loader:
        yield {"input_features": log_mel(sounds.of(windows), filters)}, labels


def encode(
    model: Any, windows: Windows, sounds: Sounds, filters: torch.Tensor, count: int
) -> tuple[list[Window], torch.Tensor]:
    """`count` windows and their encoder output [count, positions, width] in float16."""
    drawn, states = list[Window](), []
    model.eval()
    with torch.no_grad():
        while len(drawn) < count:
            some = [windows.draw() for _ in range(8)]
            heard = log_mel(sounds.of(some), filters)
            drawn += some
            states.append(model.model.encoder(heard).last_hidden_state.half())
    return drawn, torch.cat(states)


def kept(
    drawn: list[Window], states: torch.Tensor, labeler: Labeler, filler: int, size: int
) -> Iterator[Batch]:
    """The windows of `encode` again and again, with new labels, those of similar lengths
    together."""
    rng = random.Random(1)
    while True:
        for numbers in by_length([len(window.placed) for window in drawn], size, rng):
            labels = [labeler.label(drawn[number], rng) for number in numbers]
            yield {"encoder_outputs": (states[numbers].float(),)}, padded(labels, filler)


def train(
    model: Any,
    batches: Iterator[Batch],
    *,
    seconds: float,
    peak_lr: float,
    warm_up: int,
) -> None:
    optimizer, attention = build_optimizer(model), Attention(model)
    device, step = model.device, 0
    began = time.perf_counter()
    model.train()
    while (done := (time.perf_counter() - began) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(peak_lr, step, warm_up, done)
        heard, labels = next(batches)
        inputs, targets, spans = (tensor.to(device) for tensor in labels)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = model(**heard, decoder_input_ids=inputs).logits
        loss = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), targets.flatten(), ignore_index=-100
        )
        guidance = guidance_loss(attention.weights(), spans)
        optimizer.zero_grad(set_to_none=True)
        (loss + GUIDANCE * guidance).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 20 == 0:
            passed = time.perf_counter() - began
            figures = f"loss {loss.item():.4f} guidance {guidance.item():.4f}"
            print(f"step {step} {figures} {passed:.0f} s", flush=True)


def save(folder: Path, model: Any, extractor: Any, ids: dict[str, int]) -> None:
    """In float16."""
    model.eval().half()
    model.generation_config = generation_config(ids)
    model.config.dropout = 0.0
    model.config.dtype = "float16"
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--from", type=Path, dest="origin", help="train this one's decoder")
    parser.add_argument("--utterances", type=int, default=50_000)
    parser.add_argument("--coded", type=float, default=0.67, help="share that codecs go over")
    parser.add_argument("--windows", type=int, default=1280, help="with --from: that are encoded")
    parser.add_argument("--seconds", type=float, default=345, help="training time")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--peak-lr", type=float, default=2e-3)
    parser.add_argument("--warm-up", type=int, default=400, help="steps")
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
    speech = synthesize_all(spoken + held_out, arguments.coded)
    passed = time.perf_counter() - began
    print(f"synthesized {len(speech)} utterances in {passed:.0f} s", flush=True)

    ids = build_tokenizer(folder)
    extractor = WhisperFeatureExtractor(feature_size=80, chunk_length=WINDOW_SECONDS)
    filters = torch.tensor(np.asarray(extractor.mel_filters), dtype=torch.float32, device=device)
    windows = Windows(spoken, speech[:count], seed=1)
    labeler, size = Labeler(folder, spoken, speech[:count], ids), arguments.batch_size
    sounds = Sounds(speech[:count], device)
    if arguments.origin is None:
        model = build_model(ids).to(device)
        batches = fresh(Drawn(windows, labeler, size, ids[END]), sounds, filters)
    else:
        model = trained(arguments.origin).to(device)
        encoded = encode(model, windows, sounds, filters, arguments.windows)
        batches = kept(*encoded, labeler, ids[END], size)
    train(
        model,
        batches,
        seconds=arguments.seconds,
        peak_lr=arguments.peak_lr,
        warm_up=arguments.warm_up,
    )
    save(folder, model, extractor, ids)
    check(folder, extractor, held_out, speech[count:])


def trained(folder: Path) -> Any:
    """The model of `folder`, with an encoder that does not change."""
    model = WhisperForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, dropout=0.05
    )
    model.model.encoder.requires_grad_(False)
    return model


def check(
    folder: Path, extractor: Any, held_out: list[corpus.Utterance], speech: list[corpus.Speech]
) -> None:
    """Prints transformers' word error rate on held-out speech. The engine's: evaluate.py."""
    from jiwer import wer

    model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    tokenizer = WhisperTokenizer.from_pretrained(folder)
    heard = []
    for spoken, sound in zip(held_out, speech, strict=True):
        features = extractor(
            sound.samples.astype(np.float32) / 32768, sampling_rate=RATE, return_tensors="pt"
        ).input_features
        with torch.no_grad():
            ids = model.generate(features, language=spoken.language, task="transcribe")
        heard.append(tokenizer.decode(ids[0], skip_special_tokens=True))
    errors = wer([spoken.text for spoken in held_out], heard)
    print(f"held-out: word error rate {100 * errors:.2f} %", flush=True)


if __name__ == "__main__":
    main()
