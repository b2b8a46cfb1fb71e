"""Small random checkpoints of decoders without encoders, saved with transformers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tiny_models import VOCAB
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 48, "intermediate_size": 72, "num_hidden_layers": 3,
    "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "rms_norm_eps": 1e-5,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip


def llama() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**SHAPE, rope_parameters=LLAMA3))


def llama_with_biases() -> PreTrainedModel:
    """Also heads that are no share of the hidden size, one head of keys, and a tied output."""
    shape = {**SHAPE, "num_key_value_heads": 1, "head_dim": 12}
    config = LlamaConfig(**shape, attention_bias=True, mlp_bias=True, tie_word_embeddings=True)
    return LlamaForCausalLM(config)


def qwen2() -> PreTrainedModel:
    """Heads of 7 * 8 features: as in published models, no power of two share their keys."""
    shape = {**SHAPE, "num_attention_heads": 14, "hidden_size": 112}
    return Qwen2ForCausalLM(Qwen2Config(**shape, tie_word_embeddings=True))


def qwen3() -> PreTrainedModel:
    """With YaRN; heads are no share of the hidden size."""
    yarn = {
        "rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0,
        "original_max_position_embeddings": 64,
    }  # fmt: skip
    return Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=16, rope_parameters=yarn))


def qwen3_tied() -> PreTrainedModel:
    dynamic = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    return Qwen3ForCausalLM(
        Qwen3Config(**SHAPE, head_dim=8, tie_word_embeddings=True, rope_parameters=dynamic)
    )


DECODERS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": llama,
    "llama_with_biases": llama_with_biases,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "qwen3_tied": qwen3_tied,
}


def make_decoder(name: str, folder: Path, **save_options: object) -> PreTrainedModel:
    """Saves a checkpoint with a tokenizer in `folder`. Returns the transformers model."""
    torch.manual_seed(sum(map(ord, name)))
    model = DECODERS[name]().eval()
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            liven(path, parameter)
    model.save_pretrained(folder, **save_options)
    word_tokenizer().save_pretrained(folder)
    return model


def liven(path: str, parameter: torch.Tensor) -> None:
    """Weights that make every layer matter."""
    is_norm = "norm" in path or "ln_q" in path or "layrnorm" in path
    if is_norm and path.endswith("weight"):
        parameter.uniform_(0.5, 1.5).mul_(torch.randn_like(parameter).sign())
    elif parameter.dim() == 1:
        parameter.normal_(std=0.3)
    elif "embed" in path or "lm_head" in path:
        parameter.normal_()
    else:
        gain = 2.0 if ".q_proj" in path or ".k_proj" in path else 1.3
        parameter.normal_(std=gain * parameter[0].numel() ** -0.5)


def word_tokenizer() -> PreTrainedTokenizerFast:
    """A word "w7" for each id 7; texts begin with "<s>", as Llama's do."""
    words = {f"w{id_}": id_ for id_ in range(3, VOCAB)}
    tokens = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "<pad>": 2, **words}, "<pad>"))
    tokens.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokens.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokens, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
