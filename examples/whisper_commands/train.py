"""Trains the small Whisper checkpoint of this folder on synthetic speech. Needs espeak-ng and a GPU (about eight minutes).

    python examples/whisper_commands/train.py --output examples/whisper_commands/model

The window is 8 s instead of Whisper's 30 s; everything else is the standard transformers format.
"""

import argparse
import json
import math
import random
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import corpus
import numpy as np
import torch
from codec import noisy, through_random_codec
from jiwer import wer
from scipy.signal import resample_poly
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

RATE, WINDOW_SECONDS, TICKS_PER_SECOND = 16_000, 8, 50
WINDOW = RATE * WINDOW_SECONDS
LANGUAGES = ["en", "de"]
CONTROL = [
    "<|endoftext|>", "<|startoftranscript|>", *(f"<|{code}|>" for code in LANGUAGES), "<|translate|>", "<|transcribe|>",
    "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>",
]  # fmt: skip
TIMESTAMPS = [
    f"<|{tick / TICKS_PER_SECOND:.2f}|>" for tick in range(WINDOW_SECONDS * TICKS_PER_SECOND + 1)
]


def synthesise_at_rate(spoken: corpus.Utterance) -> np.ndarray:
    """Samples [n] int16 at RATE; two in three with noise and through a lossy codec, the others clean."""
    samples = resample_poly(corpus.synthesise(spoken), 320, 441)  # 22,050 Hz to 16 kHz
    samples = samples / np.abs(samples).max() * 0.7
    rng = random.Random(repr(spoken))
    if rng.random() < 0.67:
        samples = through_random_codec(noisy(samples, RATE, rng, 8, 45), RATE, rng)
    return (np.clip(samples, -1, 1) * 32767).astype(np.int16)


def build_tokenizer(folder: Path) -> dict[str, int]:
    """Writes vocab.json, merges.txt and the rest of a Whisper tokenizer; returns token -> id."""
    rng = random.Random(0)
    lines = [
        " " + text
        for _ in range(4000)
        for language in LANGUAGES
        for text in corpus.sentence(rng, language)
    ]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.train_from_iterator(
        lines,
        trainers.BpeTrainer(
            vocab_size=520,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    bpe.model.save(str(folder))
    vocabulary = json.loads((folder / "vocab.json").read_text())
    ids = vocabulary | {token: len(vocabulary) + i for i, token in enumerate(CONTROL + TIMESTAMPS)}
    (folder / "added_tokens.json").write_text(
        json.dumps({token: ids[token] for token in CONTROL + TIMESTAMPS}, indent=0)
    )
    (folder / "special_tokens_map.json").write_text(
        json.dumps(
            {
                "bos_token": "<|endoftext|>",
                "eos_token": "<|endoftext|>",
                "pad_token": "<|endoftext|>",
                "unk_token": "<|endoftext|>",
                "additional_special_tokens": CONTROL[1:],
            },
            indent=1,
        )
    )
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "WhisperTokenizer",
                "model_max_length": 96,
                "bos_token": "<|endoftext|>",
                "eos_token": "<|endoftext|>",
                "pad_token": "<|endoftext|>",
                "unk_token": "<|endoftext|>",
                "add_prefix_space": False,
                "errors": "replace",
                "added_tokens_decoder": {
                    str(ids[token]): {
                        "content": token, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False,
                        "special": token in CONTROL,
                    }
                    for token in CONTROL + TIMESTAMPS
                },
            },
            indent=1,
        )
    )  # fmt: skip
    return ids


def build_model(ids: dict[str, int]) -> WhisperForConditionalGeneration:
    config = WhisperConfig(
        vocab_size=len(ids), num_mel_bins=80, d_model=192, encoder_layers=4, decoder_layers=2,
        encoder_attention_heads=3, decoder_attention_heads=3, encoder_ffn_dim=768, decoder_ffn_dim=768,
        max_source_positions=WINDOW_SECONDS * TICKS_PER_SECOND, max_target_positions=96, dropout=0.05, attention_dropout=0.0,
        bos_token_id=ids["<|endoftext|>"], eos_token_id=ids["<|endoftext|>"], pad_token_id=ids["<|endoftext|>"],
        decoder_start_token_id=ids["<|startoftranscript|>"], suppress_tokens=[], begin_suppress_tokens=[ids["Ġ"], ids["<|endoftext|>"]],
        antiphon_encoder_window="auto",  # evaluate.py measured them: 1.17 % word errors, 0.62 % in full windows
    )  # fmt: skip
    return WhisperForConditionalGeneration(config)


def generation_config(ids: dict[str, int]) -> GenerationConfig:
    end = ids["<|endoftext|>"]
    return GenerationConfig(
        bos_token_id=end, eos_token_id=end, pad_token_id=end, decoder_start_token_id=ids["<|startoftranscript|>"],
        max_length=96, is_multilingual=True, lang_to_id={f"<|{code}|>": ids[f"<|{code}|>"] for code in LANGUAGES},
        task_to_id={"transcribe": ids["<|transcribe|>"], "translate": ids["<|translate|>"]},
        no_timestamps_token_id=ids["<|notimestamps|>"], prev_sot_token_id=ids["<|startofprev|>"],
        begin_suppress_tokens=[ids["Ġ"], end], max_initial_timestamp_index=TICKS_PER_SECOND * 6, return_timestamps=False,
    )  # fmt: skip


class Batches:
    """Random training windows: one or more utterances at random places, gain, noise; labels in Whisper's token format."""

    def __init__(
        self,
        folder: Path,
        spoken: list[corpus.Utterance],
        audio: list[np.ndarray],
        ids: dict[str, int],
        device: str,
    ) -> None:
        self.spoken, self.ids, self.device = spoken, ids, device
        self.lengths = np.array([len(samples) for samples in audio])
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)[:-1]])
        self.audio = torch.from_numpy(np.concatenate(audio)).to(device)
        self.rng = random.Random(1)
        self.by_language = {
            code: [i for i, u in enumerate(spoken) if u.language == code] for code in LANGUAGES
        }
        bpe = Tokenizer(
            models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
        )
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        texts = sorted({text for u in spoken for text in (u.text, u.english)})
        self.encoded = {text: bpe.encode(" " + text).ids for text in texts}

    def window(self) -> tuple[list[tuple[int, int]], list[int]]:
        """Where which utterance lies, as (index, start sample), and the label tokens after <|startoftranscript|>."""
        ids, rng = self.ids, self.rng
        if rng.random() < 0.03:
            return [], [ids["<|nospeech|>"], ids["<|endoftext|>"]]
        language = rng.choices(LANGUAGES, [0.6, 0.4])[0]
        placed: list[tuple[int, int]] = []
        position = int(rng.choice([0.0, rng.random() * 0.5, rng.random() * 3]) * RATE)
        for _ in range(rng.choices([1, 2, 6], [0.45, 0.2, 0.35])[0]):
            index = rng.choice(self.by_language[language])
            if position + self.lengths[index] > WINDOW:
                position = (
                    rng.randrange(max(1, WINDOW - int(self.lengths[index])))
                    if not placed
                    else WINDOW
                )
            if position + self.lengths[index] > WINDOW:
                break
            placed.append((index, position))
            position += int(self.lengths[index]) + int((0.25 + rng.random()) * RATE)
        translate = rng.random() < (0.35 if language == "de" else 0.05)
        timestamps = rng.random() < 0.5
        labels = [ids[f"<|{language}|>"], ids["<|translate|>" if translate else "<|transcribe|>"]]
        labels += [] if timestamps else [ids["<|notimestamps|>"]]
        for index, start in placed:
            text = self.encoded[
                self.spoken[index].english if translate else self.spoken[index].text
            ]
            first, last = (
                round(at / RATE * TICKS_PER_SECOND)
                for at in (start, start + int(self.lengths[index]))
            )
            marks = [ids[TIMESTAMPS[min(tick, len(TIMESTAMPS) - 1)]] for tick in (first, last)]
            labels += [marks[0], *text, marks[1]] if timestamps else text
        return placed, [*labels, ids["<|endoftext|>"]][:95]  # the decoder has 96 positions

    def batch(self, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Samples [size, WINDOW] float32, decoder inputs and labels [size, longest]; padding is -100 in the labels."""
        windows = [self.window() for _ in range(size)]
        samples = torch.zeros(size, WINDOW, device=self.device)
        for row, (placed, _) in enumerate(windows):
            for index, start in placed:
                at, length = int(self.starts[index]), int(self.lengths[index])
                samples[row, start : start + length] = self.audio[at : at + length].float() / 32768
        samples *= 10 ** (torch.empty(size, 1, device=self.device).uniform_(-1.2, 0.1))
        loudness = samples.pow(2).mean(1, keepdim=True).sqrt().clamp_min(0.003)
        noise = torch.randn_like(samples)
        coloured = torch.rand(size, 1, device=self.device) < 0.5
        smooth = torch.nn.functional.avg_pool1d(noise[:, None], 9, 1, 4)[:, 0] * 3
        noise = torch.where(coloured, smooth, noise)
        snr = 10 ** (-torch.empty(size, 1, device=self.device).uniform_(3, 45) / 20)
        samples = samples + noise * loudness * snr * (
            torch.rand(size, 1, device=self.device) < 0.85
        )
        longest = max(len(labels) for _, labels in windows)
        labels = torch.full((size, longest), -100)
        for row, (_, tokens) in enumerate(windows):
            labels[row, : len(tokens)] = torch.tensor(tokens)
        start = torch.full((size, 1), self.ids["<|startoftranscript|>"])
        inputs = torch.cat([start, labels[:, :-1]], 1).masked_fill_(
            torch.cat([start, labels[:, :-1]], 1) < 0, self.ids["<|endoftext|>"]
        )
        # A forced task or language token is never predicted, except the language (detection reads it there).
        labels[:, 1] = torch.where(labels[:, 1] == self.ids["<|endoftext|>"], labels[:, 1], -100)
        return samples.clamp(-1, 1), inputs.to(self.device), labels.to(self.device)


def log_mel(samples: torch.Tensor, filters: torch.Tensor) -> torch.Tensor:
    """[batch, n] -> [batch, mels, frames], as WhisperFeatureExtractor computes it."""
    window = torch.hann_window(400, device=samples.device)
    power = torch.stft(samples, 400, 160, window=window, return_complex=True)[..., :-1].abs() ** 2
    logs = torch.clamp(filters.T @ power, min=1e-10).log10()
    return (torch.maximum(logs, logs.amax((1, 2), keepdim=True) - 8.0) + 4.0) / 4.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--utterances", type=int, default=50_000)
    parser.add_argument("--seconds", type=float, default=345, help="training time")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--peak-lr", type=float, default=2e-3)
    arguments = parser.parse_args()
    folder = arguments.output
    folder.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = True

    rng = random.Random(7)
    began = time.perf_counter()
    spoken = [corpus.utterance(rng, corpus.TRAINING_VARIANTS) for _ in range(arguments.utterances)]
    held_out = [
        corpus.utterance(rng, corpus.HELD_OUT_VARIANTS)
        for _ in range(min(200, arguments.utterances))
    ]
    with ProcessPoolExecutor() as pool:
        audio = list(pool.map(synthesise_at_rate, spoken + held_out, chunksize=64))
    print(f"synthesised {len(audio)} utterances in {time.perf_counter() - began:.0f} s", flush=True)

    ids = build_tokenizer(folder)
    batches = Batches(folder, spoken, audio[: len(spoken)], ids, device)
    model = build_model(ids).to(device)
    model.generation_config = generation_config(ids)
    extractor = WhisperFeatureExtractor(feature_size=80, chunk_length=WINDOW_SECONDS)
    filters = torch.tensor(np.asarray(extractor.mel_filters), dtype=torch.float32, device=device)
    print(
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, vocabulary {len(ids)}",
        flush=True,
    )

    decay = [p for p in model.parameters() if p.requires_grad and p.dim() > 1]
    rest = [p for p in model.parameters() if p.requires_grad and p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}],
        lr=1e-3,
        betas=(0.9, 0.98),
    )
    began, step = time.perf_counter(), 0
    while (done := (time.perf_counter() - began) / arguments.seconds) < 1:
        rate = (
            arguments.peak_lr
            * min(step / 400, 1)
            * (0.5 * (1 + math.cos(math.pi * done)) * 0.99 + 0.01)
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        samples, inputs, labels = batches.batch(arguments.batch_size)
        features = log_mel(samples, filters)
        with torch.autocast(device, torch.bfloat16):
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
            print(
                f"step {step} loss {loss.item():.4f} {time.perf_counter() - began:.0f} s",
                flush=True,
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
    """Prints the held-out word error rate by transformers itself; the engine's own is evaluate.py."""
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
    print(
        f"held-out: word error rate {100 * wer([spoken.text for spoken in held_out], heard):.2f} %",
        flush=True,
    )


if __name__ == "__main__":
    main()
