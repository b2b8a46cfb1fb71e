"""A small random Florence-2, saved with transformers."""

from pathlib import Path
from typing import Any

import torch
from tiny_decoders import liven
from tiny_models import BART_SHAPE, VOCAB, liven_text_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    Florence2Config,
    Florence2ForConditionalGeneration,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

START, END, PAD, IMAGE = 0, 1, 2, VOCAB - 1
HEIGHT, WIDTH = 44, 60  # no multiple of anything
# What the tasks of transformers' processor say, each word a token.
WORDS = [
    *("What", "does", "the", "image", "describe?"),
    *("Locate", "objects", "with", "category", "name", "in", "image.", "phrases", "caption:"),
]
VISION: dict[str, Any] = {
    "depths": [1, 2], "patch_size": [7, 3], "patch_stride": [4, 2], "patch_padding": [3, 1],
    "patch_prenorm": [False, True], "embed_dim": [12, 24], "num_heads": [3, 6],
    "num_groups": [2, 3], "window_size": 4, "mlp_ratio": 2.0, "projection_dim": 48,
    "max_position_embeddings": 20,
}  # fmt: skip


def tokenizer() -> PreTrainedTokenizerFast:
    ids = {"<s>": START, "</s>": END, "<pad>": PAD, "<image>": IMAGE}
    words = {f"w{id_}": id_ for id_ in range(3, VOCAB - 1 - len(WORDS))}
    sentence = {word: VOCAB - 2 - number for number, word in enumerate(WORDS)}
    tokens = Tokenizer(models.WordLevel({**ids, **words, **sentence}, "<pad>"))
    tokens.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokens.add_special_tokens(list(ids))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokens, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip


def make_florence(folder: Path, **vision: Any) -> PreTrainedModel:
    """Saves a checkpoint with tokenizer and image processor in `folder`. Returns transformers'
    model."""
    ids = {"bos_token_id": START, "eos_token_id": END, "pad_token_id": PAD}
    text = {**BART_SHAPE, **ids, "decoder_start_token_id": START, "model_type": "bart"}
    config = Florence2Config(
        vision_config={**VISION, **vision}, text_config=text, image_token_id=IMAGE
    )
    torch.manual_seed(5)
    model = Florence2ForConditionalGeneration(config).eval()
    model.generation_config = GenerationConfig(**ids, decoder_start_token_id=START, max_length=20)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            liven(path, parameter)
            if ".conv" in path and parameter.dim() == 4 and "blocks" in path:
                parameter.mul_(0.5)  # each is added to what it reads
    liven_text_model(model.model.language_model)
    model.save_pretrained(folder)
    size = {"height": HEIGHT, "width": WIDTH}
    images = CLIPImageProcessorPil(size=size, do_center_crop=False, image_seq_length=1 + 6 * 8)
    images.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return model
