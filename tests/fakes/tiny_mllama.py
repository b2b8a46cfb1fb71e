"""A small random checkpoint of Llama 3.2 Vision, saved with transformers, and its answers."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from prompt_states import continuation
from tiny_decoders import LLAMA3, liven
from tiny_models import VOCAB
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    MllamaConfig,
    MllamaForConditionalGeneration,
    MllamaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

from antiphon.inputs.images.pixels import Pixels
from antiphon.inputs.prepared import Prepared

IMAGE = VOCAB  # behind the vocabulary, as in published models
NAME = "<|image|>"
TEMPLATE = (
    "<s> {% for message in messages %}{{ message.role }} "
    "{% for part in message.content %}{% if part.type == 'image' %}<|image|> "
    "{% else %}{{ part.text }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


def make_mllama(folder: Path, tiles: int = 4) -> PreTrainedModel:
    """Layers 1 and 3 of 5 attend to images of up to `tiles` tiles of 4 + 1 tokens."""
    torch.manual_seed(7)
    arrangements = [
        [down, across]
        for down in range(1, tiles + 1)
        for across in range(1, tiles + 1)
        if down * across <= tiles
    ]
    vision = {
        "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 3, "num_global_layers": 2,
        "attention_heads": 4, "image_size": 14, "patch_size": 7, "max_num_tiles": tiles,
        "intermediate_layers_indices": [0, 2], "vision_output_dim": 96,
        "supported_aspect_ratios": arrangements,
    }  # fmt: skip
    text = {
        "vocab_size": VOCAB, "hidden_size": 48, "intermediate_size": 72, "num_hidden_layers": 5,
        "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 256,
        "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "rope_parameters": LLAMA3,
        "cross_attention_layers": [1, 3],
    }  # fmt: skip
    config = MllamaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE)
    model = MllamaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            liven(path, parameter)
            if "gate" in path and parameter.numel() == 1:
                parameter.uniform_(0.2, 0.5)
    model.save_pretrained(folder)
    size = {"height": 14, "width": 14}
    MllamaImageProcessorPil(size=size, max_image_tiles=tiles).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return model


def tokenizer() -> PreTrainedTokenizerFast:
    """A word "w7" for each id 7. Nothing is put before a text, as published tokenizers do not."""
    words = {f"w{id_}": id_ for id_ in range(5, VOCAB)}
    special = {"<s>": 0, "</s>": 1, "<pad>": 2, "user": 3, "assistant": 4, NAME: IMAGE}
    tokens = Tokenizer(models.WordLevel({**special, **words}, "<pad>"))
    tokens.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokens, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        additional_special_tokens=[NAME], chat_template=TEMPLATE,
    )  # fmt: skip


def answer(
    model: PreTrainedModel, folder: Path, prepared: Prepared, images: list[Any], count: int
) -> tuple[list[int], list[float]]:
    """`count` greedy tokens by transformers, and their log-probabilities. `images`: those of the
    prompt, which transformers' processor reads."""
    processor = MllamaProcessor(MllamaImageProcessorPil.from_pretrained(folder), tokenizer())
    ids = prepared.prompt_token_ids
    inputs: dict[str, Any] = {"input_ids": torch.tensor([ids])}
    if images:
        text = processor.tokenizer.decode(ids)
        inputs = dict(processor(images=images, text=text, return_tensors="pt"))
        assert inputs["input_ids"].tolist() == [ids]
        given = [Pixels.unpacked(part.payload).values for part in prepared.inputs]
        for own, theirs in zip(given, inputs["pixel_values"][0], strict=True):
            np.testing.assert_array_equal(own, theirs[: len(own)].numpy())
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    return continuation(model, count, **inputs)
