"""A small random T5Gemma, saved with transformers."""

from pathlib import Path
from typing import Any

import torch
from tiny_models import VOCAB, liven_text_model
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    T5GemmaConfig,
    T5GemmaForConditionalGeneration,
)

PAD, END, START = 0, 1, 2
WINDOW = 96
SHARED: dict[str, Any] = {
    "vocab_size": VOCAB, "head_dim": 12, "query_pre_attn_scalar": 20, "sliding_window": WINDOW,
    "max_position_embeddings": 200, "pad_token_id": PAD, "eos_token_id": END,
    "bos_token_id": START, "rms_norm_eps": 1e-5,
    # Low enough to matter.
    "attn_logit_softcapping": 3.0, "final_logit_softcapping": 6.0,
}  # fmt: skip
ENCODER = {
    **SHARED, "hidden_size": 60, "intermediate_size": 80, "num_hidden_layers": 2,
    "num_attention_heads": 6, "num_key_value_heads": 2,
}  # fmt: skip
DECODER = {
    **SHARED, "hidden_size": 48, "intermediate_size": 72, "num_hidden_layers": 3,
    "num_attention_heads": 6, "num_key_value_heads": 3,
}  # fmt: skip


def make_t5gemma(folder: Path, tied: bool = True, **settings: Any) -> PreTrainedModel:
    """Saves a checkpoint without a tokenizer in `folder`. Returns transformers' model."""
    config = T5GemmaConfig(
        encoder={**ENCODER, **settings}, decoder={**DECODER, **settings}, vocab_size=VOCAB,
        tie_word_embeddings=tied,
    )  # fmt: skip
    torch.manual_seed(4)
    model = T5GemmaForConditionalGeneration(config).eval()
    model.generation_config = GenerationConfig(
        bos_token_id=START, eos_token_id=END, pad_token_id=PAD, decoder_start_token_id=START
    )
    liven_text_model(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.sub_(1.0)  # gains are stored less 1
    model.save_pretrained(folder)
    return model
