"""Train the small Qwen2.5-VL checkpoint of this folder on drawn pictures and questions.

    python examples/qwen_shapes/train.py --output examples/qwen_shapes/model

It takes `--seconds`, on one core of a CPU with bfloat16 or on a GPU, and draws pictures as it goes.
"""

import argparse
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from antiphon.examples.pictures.shapes import COLORS, KINDS, Scene, draw, random_scene
from antiphon.examples.qwen_shapes.checkpoint import (
    build_model,
    build_processor,
    build_tokenizer,
    generation_config,
    save,
)
from antiphon.examples.qwen_shapes.questions import QUESTIONS, Asked

QUESTIONS_OF_PICTURE = 4
NO_SHAPE = len(KINDS) * len(COLORS)  # class of a token of the picture with no shape's center
PADDED = "padded_flash"  # transformers passes windows' lengths to what is called flash
IGNORED = -100  # label of tokens that are given


@dataclass(frozen=True)
class Batch:
    """Chats of one picture and several questions each.

    `inputs`: as transformers' model takes them. `labels` [chats, tokens] int64. `centers` [tokens
    of pictures] int64: the class of the shape whose center lies in each, or NO_SHAPE.
    """

    inputs: dict[str, torch.Tensor]
    labels: torch.Tensor
    centers: torch.Tensor


class Batches:
    def __init__(self, tokenizer: Any, processor: Any, device: str, seed: int) -> None:
        self._tokenizer, self._processor = tokenizer, processor
        self._device, self._rng = device, random.Random(seed)
        self._image_id = tokenizer.convert_tokens_to_ids("<|image_pad|>")

    def batch(self, size: int) -> Batch:
        rng, merge = self._rng, self._processor.merge_size
        scenes = [random_scene(rng) for _ in range(size)]
        made = self._processor([draw(scene, rng) for scene in scenes], return_tensors="pt")
        grids = [(rows // merge, columns // merge) for _, rows, columns in made["image_grid_thw"]]
        ids, labels = [], []
        for scene, (rows, columns) in zip(scenes, grids, strict=True):
            asked = [pair for ask in QUESTIONS if (pair := ask(scene, rng))]
            rng.shuffle(asked)
            tokens, wanted = self._chat(asked[:QUESTIONS_OF_PICTURE], int(rows * columns))
            ids.append(tokens)
            labels.append(wanted)
        pad = self._tokenizer.pad_token_id
        padded = torch.nn.utils.rnn.pad_sequence(ids, True, pad).to(self._device)
        inputs = {
            "input_ids": padded,
            "attention_mask": (padded != pad).long(),
            "mm_token_type_ids": (padded == self._image_id).int(),
            **{name: values.to(self._device) for name, values in made.items()},
        }
        wanted = torch.nn.utils.rnn.pad_sequence(labels, True, IGNORED)
        centers = torch.cat([centers_of(*pair) for pair in zip(scenes, grids, strict=True)])
        return Batch(inputs, wanted.to(self._device), centers.to(self._device))

    def _chat(self, asked: list[Asked], image_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and labels of a picture of `image_rows` tokens."""
        ids: list[int] = []
        labels: list[int] = []
        image = f"<|vision_start|>{'<|image_pad|>' * image_rows}<|vision_end|>"
        for number, (question, answer) in enumerate(asked):
            shown = "" if number else image
            prompt = f"<|im_start|>user\n{shown}{question}<|im_end|>\n<|im_start|>assistant\n"
            prompt = prompt if number == 0 else f"\n{prompt}"
            begin, end = self._ids(prompt), self._ids(f"{answer}<|im_end|>")
            ids += begin + end
            labels += [IGNORED] * len(begin) + end
        return torch.tensor(ids), torch.tensor(labels)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        return ids


def centers_of(scene: Scene, grid: tuple[int, int]) -> torch.Tensor:
    """`Batch.centers` of one picture of so many rows and columns of tokens."""
    rows, columns = (int(size) for size in grid)
    classes = torch.full((rows, columns), NO_SHAPE)
    side = min(scene.width, scene.height)
    for shape in scene.shapes:
        row, column = shape.y * side / scene.height * rows, shape.x * side / scene.width * columns
        kind, color = KINDS.index(shape.kind), list(COLORS).index(shape.color)
        classes[int(row), int(column)] = kind * len(COLORS) + color
    return classes.flatten()


def padded_attention(
    module: Any,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *rest: Any,
    scaling: float,
    cu_seq_lens_q: torch.Tensor,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention within windows, [1, heads, tokens, size] -> [1, tokens, heads, size], of all
    windows at once: transformers' own goes through them one by one."""
    lengths = cu_seq_lens_q.diff().tolist()
    present = torch.nn.utils.rnn.pad_sequence(
        [torch.ones(length, dtype=torch.bool, device=q.device) for length in lengths], True
    )

    def padded(x: torch.Tensor) -> torch.Tensor:
        windows = x[0].transpose(0, 1).split(lengths)
        return torch.nn.utils.rnn.pad_sequence(windows, True).transpose(1, 2)

    scores = padded(q) @ padded(k).transpose(2, 3) * scaling
    scores = scores.masked_fill(~present[:, None, None], -torch.inf)
    mixed = scores.softmax(-1, torch.float32).to(v.dtype) @ padded(v)
    return mixed.transpose(1, 2)[present][None], None


def build_optimizer(modules: list[torch.nn.Module]) -> torch.optim.Optimizer:
    """Weights decay; norms and biases do not."""
    parameters = [parameter for module in modules for parameter in module.parameters()]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": 0.05},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98))


def train(model: Any, batches: Batches, *, seconds: float, batch_size: int, peak: float) -> None:
    """`peak`: learning rate behind a warm-up of 100 steps; it falls as a cosine over `seconds`.

    What each token of a picture shows is asked of it as well, through a layer that is not kept:
    the vision encoder learns little from answers alone in so short a time.
    """
    vision = model.model.visual
    shown = torch.nn.Linear(vision.config.out_hidden_size, NO_SHAPE + 1).to(model.device)
    seen: list[torch.Tensor] = []
    vision.register_forward_hook(lambda *call: seen.append(call[-1].pooler_output))
    optimizer = build_optimizer([model, shown])
    began, step = time.perf_counter(), 0
    while (done := (time.perf_counter() - began) / seconds) < 1:
        for group in optimizer.param_groups:
            cosine = 0.5 * (1 + math.cos(math.pi * done)) * 0.99 + 0.01
            group["lr"] = peak * min((step + 1) / 100, 1) * cosine
        batch = batches.batch(batch_size)
        with torch.autocast(batch.labels.device.type, torch.bfloat16):
            logits = model(**batch.inputs).logits
            centers = shown(seen.pop())
        answers = torch.nn.functional.cross_entropy(
            logits[:, :-1].float().flatten(0, 1),
            batch.labels[:, 1:].flatten(),
            ignore_index=IGNORED,
        )
        pictures = torch.nn.functional.cross_entropy(centers.float(), batch.centers)
        optimizer.zero_grad(set_to_none=True)
        (answers + pictures).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 50 == 0:
            passed = time.perf_counter() - began
            losses = f"answers {answers.item():.4f} pictures {pictures.item():.4f}"
            print(f"step {step} {losses} {passed:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--start", type=Path, help="a checkpoint to train further, of this script")
    parser.add_argument("--seconds", type=float, default=1440, help="training time")
    parser.add_argument("--seed", type=int, default=1, help="of the pictures")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--peak-lr", type=float, default=1e-3)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    tokenizer, processor = build_tokenizer(), build_processor()
    model = build_model(tokenizer)
    if arguments.start is not None:
        model = type(model).from_pretrained(arguments.start, dtype=torch.float32)
    model = model.to(arguments.device)
    model.set_attn_implementation("eager")
    ALL_ATTENTION_FUNCTIONS.register(PADDED, padded_attention)
    model.config.vision_config._attn_implementation = PADDED
    model.generation_config = generation_config(tokenizer)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    print(f"{millions:.2f} M parameters, vocabulary {len(tokenizer)}", flush=True)
    train(
        model,
        Batches(tokenizer, processor, arguments.device, seed=arguments.seed),
        seconds=arguments.seconds,
        batch_size=arguments.batch_size,
        peak=arguments.peak_lr,
    )
    save(arguments.output, model, tokenizer, processor)


if __name__ == "__main__":
    main()
