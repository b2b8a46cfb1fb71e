"""Train the small TrOCR checkpoint of this folder on drawn pictures: it reads the number.

    python examples/trocr_digits/train.py --output examples/trocr_digits/model

Takes 20 minutes on one core of a CPU, two with `--device cuda`. Needs Pillow and transformers; the
pictures are drawn as it goes, no one twice.
"""

import argparse
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    TrOCRConfig,
    TrOCRForCausalLM,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
)
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from antiphon.examples.pictures.digits import MOST_DIGITS, Drawing, draw_number
from antiphon.examples.trocr_digits.first_weights import look_around

HEIGHT, WIDTH, PATCH = 32, 96, 8  # of pictures as the encoder takes them
BEGIN, PAD, END = 0, 1, 2
FIRST_DIGIT = 3
NO_DIGIT = 10  # of a patch
IGNORED = -100
HELD_OUT_SEED = 99  # of pictures that training never saw


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A token for each digit."""
    special = ["<s>", "<pad>", "</s>"]
    vocabulary = {word: id_ for id_, word in enumerate([*special, *"0123456789"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", eos_token="</s>"
    )


def build_processor() -> ViTImageProcessorPil:
    return ViTImageProcessorPil(
        size={"height": HEIGHT, "width": WIDTH}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )


def build_model() -> VisionEncoderDecoderModel:
    encoder = ViTConfig(
        image_size=[HEIGHT, WIDTH],
        patch_size=PATCH,
        hidden_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=256,
        initializer_range=0.08,
    )
    decoder = TrOCRConfig(
        vocab_size=FIRST_DIGIT + 10,
        d_model=128,
        decoder_layers=2,
        decoder_attention_heads=4,
        decoder_ffn_dim=256,
        max_position_embeddings=16,
        cross_attention_hidden_size=128,
        dropout=0.0,
        init_std=0.08,
        scale_embedding=True,
        bos_token_id=BEGIN,
        pad_token_id=PAD,
        eos_token_id=END,
        decoder_start_token_id=BEGIN,
        is_decoder=True,
        add_cross_attention=True,
    )
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.pad_token_id = BEGIN, PAD
    model = VisionEncoderDecoderModel(config, decoder=TrOCRForCausalLM(decoder))
    look_around(model.encoder)
    model.generation_config = GenerationConfig(
        bos_token_id=BEGIN,
        pad_token_id=PAD,
        eos_token_id=END,
        decoder_start_token_id=BEGIN,
        max_length=MOST_DIGITS + 2,
    )
    return model


@dataclass(frozen=True)
class Batch:
    """Of drawings: `pixels` [drawings, 3, HEIGHT, WIDTH], what the decoder is given and shall say,
    `inputs` and `labels` [drawings, MOST_DIGITS + 1], and which digit each patch is of, `patches`
    [drawings, patches]; NO_DIGIT where it is of none."""

    pixels: torch.Tensor
    inputs: torch.Tensor
    labels: torch.Tensor
    patches: torch.Tensor

    @classmethod
    def of(cls, drawings: list[Drawing], device: str) -> "Batch":
        ids = [[FIRST_DIGIT + int(digit) for digit in drawn.number] for drawn in drawings]
        rest = [MOST_DIGITS - len(row) for row in ids]
        inputs = [[BEGIN, *row, *[PAD] * more] for row, more in zip(ids, rest, strict=True)]
        labels = [[*row, END, *[IGNORED] * more] for row, more in zip(ids, rest, strict=True)]
        patches = np.stack([digits_of_patches(drawn) for drawn in drawings])
        small = [
            np.asarray(drawn.picture.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR))
            for drawn in drawings
        ]
        pixels = torch.from_numpy(np.stack(small)).to(device).permute(0, 3, 1, 2)
        return cls(
            pixels.float() / 127.5 - 1.0,
            torch.tensor(inputs, device=device),
            torch.tensor(labels, device=device),
            torch.from_numpy(patches).to(device),
        )


def digits_of_patches(drawn: Drawing) -> np.ndarray:
    """[patches] int64: the digit in whose box the middle of each patch is."""
    width, height = drawn.picture.size
    y, x = np.mgrid[PATCH / 2 : HEIGHT : PATCH, PATCH / 2 : WIDTH : PATCH]
    y, x = y.ravel() * height / HEIGHT, x.ravel() * width / WIDTH
    digits = np.full(y.shape, NO_DIGIT)
    for digit, (left, top, right, bottom) in zip(drawn.number, drawn.boxes, strict=True):
        digits[(left <= x) & (x < right) & (top <= y) & (y < bottom)] = int(digit)
    return digits


def learning_rate(peak: float, step: int, done: float) -> float:
    """Linear warm-up over 200 steps, then a cosine. `done`: the share of training, 0 to 1."""
    return peak * min(step / 200, 1) * (0.5 * (1 + math.cos(math.pi * done)) * 0.99 + 0.01)


def train(
    model: VisionEncoderDecoderModel,
    *,
    seconds: float,
    batch_size: int,
    peak_lr: float,
    device: str,
    seed: int,
    goes_on: bool,
) -> None:
    """Beside the decoder's loss, a linear layer shall tell of each patch which digit it is of: so
    the encoder learns to see digits before the decoder knows where to look. Numbers get longer
    while it learns, up to the first quarter of the time; not where `goes_on`."""
    patch_head = torch.nn.Linear(model.encoder.config.hidden_size, NO_DIGIT + 1).to(device)
    parameters = [*model.parameters(), *patch_head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=peak_lr, betas=(0.9, 0.98))
    rng, began, step = random.Random(seed), time.perf_counter(), 0
    while (done := (time.perf_counter() - began) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(peak_lr, step, done)
        digits = MOST_DIGITS if goes_on else min(MOST_DIGITS, 1 + int(done * 20))
        batch = Batch.of([draw_number(rng, digits) for _ in range(batch_size)], device)
        output = model(pixel_values=batch.pixels, decoder_input_ids=batch.inputs)
        seen = patch_head(output.encoder_last_hidden_state[:, 1:])  # without the class token
        reading, seeing = (
            torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), wanted.flatten(), ignore_index=IGNORED
            )
            for logits, wanted in ((output.logits, batch.labels), (seen, batch.patches))
        )
        optimizer.zero_grad(set_to_none=True)
        (reading + seeing).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        if step % 200 == 0:
            print(
                f"step {step}, {digits} digits: loss {reading.item():.4f}, "
                f"of patches {seeing.item():.4f}, {time.perf_counter() - began:.0f} s",
                flush=True,
            )


def held_out(count: int) -> list[Drawing]:
    """The same drawings in every run; training draws from another seed."""
    rng = random.Random(HELD_OUT_SEED)
    return [draw_number(rng) for _ in range(count)]


def check(
    model: VisionEncoderDecoderModel,
    processor: ViTImageProcessorPil,
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    """Prints how many held-out pictures transformers reads exactly right. The engine's:
    evaluate.py."""
    drawings = held_out(500)
    pictures = [drawn.picture for drawn in drawings]
    pixels = processor(pictures, return_tensors="pt").pixel_values
    with torch.inference_mode():
        ids = model.generate(pixels.to(model.device))
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    right = sum(text == drawn.number for text, drawn in zip(texts, drawings, strict=True))
    print(f"held-out: {right}/{len(drawings)} exactly right", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--seconds", type=float, default=1100, help="training time")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--peak-lr", type=float, default=1.2e-3)
    parser.add_argument("--start", type=Path, help="a folder that training goes on from")
    parser.add_argument("--seed", type=int, default=3, help="of the pictures")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    if arguments.start is None:
        model = build_model().to(arguments.device)
    else:
        model = VisionEncoderDecoderModel.from_pretrained(arguments.start).to(arguments.device)
    model.train()
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    print(f"{millions:.2f} M parameters", flush=True)
    train(
        model,
        seconds=arguments.seconds,
        batch_size=arguments.batch_size,
        peak_lr=arguments.peak_lr,
        device=arguments.device,
        seed=arguments.seed,
        goes_on=arguments.start is not None,
    )
    model.eval()
    tokenizer, processor = build_tokenizer(), build_processor()
    for part in (model, tokenizer, processor):
        part.save_pretrained(arguments.output)
    check(model, processor, tokenizer)


if __name__ == "__main__":
    main()
