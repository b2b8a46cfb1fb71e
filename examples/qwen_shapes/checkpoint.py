"""The files of the small Qwen2.5-VL checkpoint: tokenizer, chat template, image processor, model.

All are in the standard transformers format.
"""

import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from antiphon.examples.pictures.shapes import random_scene
from antiphon.examples.qwen_shapes.questions import QUESTIONS

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
SPECIAL = [PAD, START, END, VISION_START, VISION_END, IMAGE, VIDEO]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}"
    "{% else %}{% for part in message.content %}{% if part.type == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PATCH, MERGE = 14, 2
SMALLEST, LARGEST = 112 * 112, 126 * 126  # pixels of a picture behind its resizing
POSITIONS = 512


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-pair merges of random questions and answers: each of their words is one token."""
    rng = random.Random(0)
    lines: list[str] = []
    for _ in range(3000):
        scene = random_scene(rng)
        lines += ["user", "assistant"]
        lines += [text for ask in QUESTIONS for text in ask(scene, rng) or ()]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=480,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=SPECIAL,
        show_progress=False,
    )
    bpe.train_from_iterator(lines, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=SPECIAL[3:],
        chat_template=TEMPLATE,
        model_max_length=POSITIONS,
    )


def build_processor() -> Any:
    return Qwen2VLImageProcessorPil(
        patch_size=PATCH,
        merge_size=MERGE,
        temporal_patch_size=2,
        size={"shortest_edge": SMALLEST, "longest_edge": LARGEST},
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLForConditionalGeneration:
    ids = tokenizer.convert_tokens_to_ids
    vision = {
        "depth": 4,
        "hidden_size": 128,
        "num_heads": 4,
        "intermediate_size": 320,
        "out_hidden_size": 192,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": 2,
        "window_size": 2 * MERGE * PATCH,
        "fullatt_block_indexes": [1, 3],
    }
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": POSITIONS,
        "bos_token_id": ids(START),
        "eos_token_id": ids(END),
        "pad_token_id": ids(PAD),
        "tie_word_embeddings": True,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "mrope_section": [4, 6, 6],
        },
    }
    config = Qwen2_5_VLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=ids(IMAGE),
        video_token_id=ids(VIDEO),
        vision_start_token_id=ids(VISION_START),
        vision_end_token_id=ids(VISION_END),
        tie_word_embeddings=True,
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:  # transformers' 0.02 is for wide models: small ones learn slower
                weight.normal_(std=weight[0].numel() ** -0.5)
    return model


def generation_config(tokenizer: PreTrainedTokenizerFast) -> GenerationConfig:
    ids = tokenizer.convert_tokens_to_ids
    return GenerationConfig(
        bos_token_id=ids(START), eos_token_id=ids(END), pad_token_id=ids(PAD), max_new_tokens=40
    )


def save(folder: Path, model: Any, tokenizer: Any, processor: Any) -> None:
    """Half of the bits: `model` comes out in float16."""
    model.eval().half()
    model.config.dtype = "float16"
    for part in (model, tokenizer, processor):
        part.save_pretrained(folder)
