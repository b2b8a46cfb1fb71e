"""A small random Moonshine, saved with transformers, and clips for it."""

from pathlib import Path

import numpy as np
import torch
from tiny_models import VOCAB, liven_text_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    MoonshineConfig,
    MoonshineForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Wav2Vec2FeatureExtractor,
)

START, END = 1, 2
RATE = 16_000
SHORTEST = 895  # samples of one token


def tokenizer() -> PreTrainedTokenizerFast:
    words = {"<unk>": 0, "<s>": START, "</s>": END, **{f"w{id_}": id_ for id_ in range(3, VOCAB)}}
    tokens = Tokenizer(models.WordLevel(words, "<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokens, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def make_moonshine(folder: Path, attention_bias: bool = False) -> PreTrainedModel:
    """Saves a checkpoint with tokenizer and feature extractor in `folder`. Returns transformers'
    model."""
    config = MoonshineConfig(
        vocab_size=VOCAB, hidden_size=60, intermediate_size=72, encoder_num_hidden_layers=2,
        decoder_num_hidden_layers=3, encoder_num_attention_heads=5, decoder_num_attention_heads=5,
        max_position_embeddings=60, pad_head_dim_to_multiple_of=8, attention_bias=attention_bias,
    )  # fmt: skip
    torch.manual_seed(11)
    model = MoonshineForConditionalGeneration(config).eval()
    model.generation_config = GenerationConfig(
        bos_token_id=START, eos_token_id=END, decoder_start_token_id=START, max_length=40
    )
    liven_text_model(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "conv" in name and parameter.dim() == 3:
                parameter.normal_(std=2.0 * parameter[0].numel() ** -0.5)
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=False, sampling_rate=RATE).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return model


def waves(*lengths: int) -> list[np.ndarray]:
    """Clips of so many samples that differ from each other in every part."""
    rng = np.random.default_rng(9)
    clips = []
    for length in lengths:
        slow = np.interp(
            np.arange(length),
            np.arange(0, length + 400, 400),
            rng.normal(size=(length + 400 + 399) // 400),
        )
        clips.append((0.3 * slow * rng.normal(size=length)).astype(np.float32))
    return clips
