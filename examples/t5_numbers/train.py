"""Train the small T5 checkpoint of this folder: "407" -> "four hundred seven".

Takes two minutes on a GPU.

python examples/t5_numbers/train.py --output examples/t5_numbers/model
"""

import argparse
import math
import random
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

ONES = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
    "nineteen",
]  # fmt: skip
TENS = ["-", "-", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
PREFIX = "in words: "


def in_words(number: int) -> str:
    """English words for 0 <= number < 1,000,000."""
    if number < 20:
        return ONES[number]
    if number < 100:
        return TENS[number // 10] + (f" {ONES[number % 10]}" if number % 10 else "")
    size, name = (100, "hundred") if number < 1000 else (1000, "thousand")
    rest = number % size
    return f"{in_words(number // size)} {name}" + (f" {in_words(rest)}" if rest else "")


def is_held_out(number: int) -> bool:
    """True for one number in ten, by a fixed hash: training leaves these out."""
    return (number * 2_654_435_761 % 2**32) % 10 == 7


def draw(rng: random.Random) -> int:
    """A random number, every count of digits equally likely."""
    digits = rng.randint(1, 6)
    return rng.randrange(10 ** (digits - 1) if digits > 1 else 0, 10**digits)


def build_tokenizer() -> PreTrainedTokenizerFast:
    words = [
        "▁" + word for word in [*ONES, *TENS[2:], "hundred", "thousand", "in", "words", "words:"]
    ]
    pieces = ["▁", *"0123456789", *"abcdefghijklmnopqrstuvwxyz", ":", ",", ".", "-"]
    vocabulary = (
        [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
        + [(word, -2.0) for word in words]
        + [(piece, -4.0) for piece in pieces]
    )
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=64,
    )


def build_model(vocabulary: int) -> T5ForConditionalGeneration:
    config = T5Config(
        vocab_size=vocabulary,
        d_model=128,
        d_kv=64,
        d_ff=256,
        num_layers=3,
        num_decoder_layers=3,
        num_heads=3,
        relative_attention_num_buckets=16,
        relative_attention_max_distance=32,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
        n_positions=64,
    )
    return T5ForConditionalGeneration(config)


def learning_rate(step: int, done: float) -> float:
    """Linear warm-up over 200 steps, then a cosine. `done`: the share of training, 0 to 1."""
    return 2e-3 * min(step / 200, 1) * (0.5 * (1 + math.cos(math.pi * done)) * 0.99 + 0.01)


def loss_of(
    model: T5ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, numbers: list[int]
) -> torch.Tensor:
    prompts, answers = [f"{PREFIX}{n}" for n in numbers], [in_words(n) for n in numbers]
    source = tokenizer(prompts, return_tensors="pt", padding=True).to(model.device)
    target = tokenizer(answers, return_tensors="pt", padding=True).input_ids
    labels = target.masked_fill(target == 0, -100).to(model.device)
    return model(
        input_ids=source.input_ids, attention_mask=source.attention_mask, labels=labels
    ).loss


def train(
    model: T5ForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    seconds: float,
    batch_size: int,
) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    rng = random.Random(3)
    began, step = time.perf_counter(), 0
    while (done := (time.perf_counter() - began) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, done)
        drawn = [draw(rng) for _ in range(batch_size)]
        loss = loss_of(model, tokenizer, [n for n in drawn if not is_held_out(n)])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 500 == 0:
            print(f"step {step} loss {loss.item():.5f}", flush=True)


def check(model: T5ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> None:
    """Prints how many held-out numbers transformers answers exactly right."""
    drawn = (draw(random.Random(11 + seed)) for seed in range(20_000))
    held_out = [n for n in drawn if is_held_out(n)][:1000]
    prompts = [f"{PREFIX}{n}" for n in held_out]
    source = tokenizer(prompts, return_tensors="pt", padding=True).to(model.device)
    with torch.no_grad():
        ids = model.generate(**source, max_new_tokens=40)
    answers = tokenizer.batch_decode(ids, skip_special_tokens=True)
    right = sum(answer == in_words(n) for answer, n in zip(answers, held_out, strict=True))
    print(f"held-out: {right}/{len(held_out)} exactly right", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--batch-size", type=int, default=512)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    model = build_model(len(tokenizer)).to("cuda" if torch.cuda.is_available() else "cpu")
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    print(f"{millions:.2f} M parameters, vocabulary {len(tokenizer)}", flush=True)
    train(model, tokenizer, arguments.seconds, arguments.batch_size)
    model.eval()
    model.generation_config = GenerationConfig(
        pad_token_id=0, eos_token_id=1, decoder_start_token_id=0, max_length=64
    )
    model.save_pretrained(arguments.output)
    tokenizer.save_pretrained(arguments.output)
    check(model, tokenizer)


if __name__ == "__main__":
    main()
