"""transformers' models that read images, with the same configuration, in the same run."""

import json
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from antiphon.benchmarks.image_encoders import Batch, release
from antiphon.benchmarks.image_loads import ImageRequests, shape_of
from antiphon.benchmarks.machine import seconds
from antiphon.benchmarks.report import Row
from antiphon.benchmarks.serving import Load
from antiphon.config.options import ModelOptions
from antiphon.config.sampling import SamplingParams
from antiphon.families.checkpoint import ModelConfig
from antiphon.families.image_halves import ImageHalf
from antiphon.inputs.images.pixels import Pixels
from antiphon.inputs.processor import InputProcessor

ATTENTIONS = ("sdpa", "flash_attention_2", "eager")
MODULES = {  # of architectures that transformers does not export
    "Qwen2VisionTransformerPretrainedModel": "transformers.models.qwen2_vl.modeling_qwen2_vl",
    "Qwen2_5_VisionTransformerPretrainedModel": (
        "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl"
    ),
}


@contextmanager
def _made_of(dtype: torch.dtype, device: str) -> Iterator[None]:
    previous = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(previous)


def _model(folder: Path, attention: str, dtype: torch.dtype, device: str) -> Any:
    raw = json.loads((folder / "config.json").read_text())
    (architecture,) = raw["architectures"]
    kind = getattr(import_module(MODULES.get(architecture, "transformers")), architecture)
    config = kind.config_class.from_dict(raw)
    with _made_of(dtype, device):
        return kind._from_config(config, attn_implementation=attention, dtype=dtype).eval()


@torch.inference_mode()
def encoder(
    folder: Path, attention: str, batches: Sequence[Batch], dtype: torch.dtype, device: str = "cuda"
) -> tuple[list[Row], dict[Batch, int]]:
    """An encoder alone, from pixels that are on the device; and the floating-point operations of
    each batch, counted where torch's operators attend."""
    half = ModelConfig.load(ModelOptions(str(folder))).encoder
    assert isinstance(half, ImageHalf)
    model, rows, operations = _model(folder, attention, dtype, device), [], {}
    for batch in batches:
        run = partial(model, **_pixels(half, batch, dtype, device))
        if attention != "flash_attention_2":
            with FlopCounterMode(display=False) as counter:
                run()
            operations[batch] = counter.get_total_flops()
        took, (count, height, width) = seconds(run), batch
        rows.append(
            {
                "engine": "transformers",
                "attention": attention,
                "graph": "no",
                "images": count,
                "size": f"{width}x{height}",
                "ms": took * 1e3,
                "images/s": count / took,
            }
        )
    del model
    release()
    return rows, operations


def _pixels(half: ImageHalf, batch: Batch, dtype: torch.dtype, device: str) -> dict[str, Any]:
    """Random ones, as the model's `forward` names them."""
    count, height, width = batch
    first, second, third, fourth = shape_of(half, height, width).pixels
    values = partial(torch.randn, dtype=dtype, device=device)
    if half.structure == "qwen_vision":
        grids = torch.tensor([[first, second, third]] * count, device=device)
        patches = values(count * first * second * third, fourth)
        return {"hidden_states": patches, "grid_thw": grids}
    return {"pixel_values": values(count * first, second, third, fourth)}


def generation(
    folder: Path, load: Load, batch: int, dtype: torch.dtype, device: str = "cuda"
) -> Row:
    """Greedy `generate` of one batch of prompts with images, in a process of its own. In its favor,
    images are read and processed before, and lie on the device."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_generation, (folder, load, batch, dtype, device))


@torch.inference_mode()
def _generation(folder: Path, load: Load, batch: int, dtype: torch.dtype, device: str) -> Row:
    model = _model(folder, "sdpa", dtype, device)
    model.generation_config.eos_token_id = None  # random weights: rows end by length alone
    inputs = _prompts(folder, load, batch, dtype, device)
    tokens = load.output_tokens
    run = partial(model.generate, **inputs, max_new_tokens=tokens, do_sample=False)
    times = []
    for _ in range(2):  # the first one warms up
        began = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return {
        "engine": "transformers",
        "images": load.images,
        "side": int(load.input_size),
        "output_tokens": tokens,
        "concurrency": batch,
        "requests/s": batch / times[-1],
        "median_ms": 1e3 * times[-1],
    }


def _prompts(
    folder: Path, load: Load, batch: int, dtype: torch.dtype, device: str
) -> dict[str, torch.Tensor]:
    """What a model's `generate` takes, of `batch` prompts of one length."""
    processor = InputProcessor(ModelConfig.load(ModelOptions(str(folder))))
    assert processor.images is not None
    id_ = processor.images.placeholder_id
    requests = ImageRequests(id_, int(load.input_size), load.images)
    prompts = [requests.prompt(load.input_size) for _ in range(batch)]
    made = [processor.prepare(prompt, SamplingParams()) for prompt in prompts]
    ids = torch.tensor([request.prompt_token_ids for request in made])
    media = [Pixels.unpacked(part.payload) for request in made for part in request.inputs]
    values = [torch.from_numpy(image.values) for image in media]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if processor.model.family.name == "qwen2_5_vl":
        grids = torch.tensor([image.shape.pixels[:3] for image in media])
        patches = torch.cat([value.flatten(0, 2) for value in values]).to(dtype)
        inputs |= {"pixel_values": patches, "image_grid_thw": grids}
        inputs["mm_token_type_ids"] = (ids == id_).int()
    elif processor.model.family.name == "llava_onevision":
        sizes = torch.tensor([image.shape.size for image in media])
        inputs |= {"pixel_values": torch.stack(values).to(dtype), "image_sizes": sizes}
        inputs["batch_num_images"] = torch.tensor([load.images] * batch)
    else:
        inputs["pixel_values"] = torch.cat(values).to(dtype)
    return {name: tensor.to(device) for name, tensor in inputs.items()}
