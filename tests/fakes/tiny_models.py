"""Small random checkpoints of every family, saved with transformers.

Their sizes are awkward, and their weights make every layer matter.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GenerationConfig,
    M2M100Config,
    M2M100ForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    MBartConfig,
    MBartForConditionalGeneration,
    MT5Config,
    MT5ForConditionalGeneration,
    PegasusConfig,
    PegasusForConditionalGeneration,
    PLBartConfig,
    PLBartForConditionalGeneration,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

VOCAB = 99
BART_SHAPE = {
    "vocab_size": VOCAB, "d_model": 48, "encoder_layers": 2, "decoder_layers": 3,
    "encoder_attention_heads": 3, "decoder_attention_heads": 3,
    "encoder_ffn_dim": 80, "decoder_ffn_dim": 72, "max_position_embeddings": 160,
    "dropout": 0.0, "attention_dropout": 0.0, "init_std": 0.4,
}  # fmt: skip
T5_SHAPE = {
    "vocab_size": VOCAB, "d_model": 40, "d_kv": 24, "num_heads": 3, "d_ff": 72,
    "num_layers": 2, "num_decoder_layers": 2, "dropout_rate": 0.0, "initializer_factor": 1.0,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 20,
}  # fmt: skip
WHISPER_SHAPE = {
    "vocab_size": VOCAB, "num_mel_bins": 80, "d_model": 48,
    "encoder_layers": 2, "decoder_layers": 3,
    "encoder_attention_heads": 3, "decoder_attention_heads": 3,
    "encoder_ffn_dim": 96, "decoder_ffn_dim": 64,
    "max_source_positions": 50, "max_target_positions": 80, "dropout": 0.0, "init_std": 0.3,
    "pad_token_id": 60, "bos_token_id": 60, "eos_token_id": 60, "decoder_start_token_id": 61,
    "suppress_tokens": None, "begin_suppress_tokens": None,
}  # fmt: skip


def bart() -> PreTrainedModel:
    return BartForConditionalGeneration(
        BartConfig(**BART_SHAPE, forced_bos_token_id=0, activation_function="gelu")
    )


def bart_scaled() -> PreTrainedModel:
    model = BartForConditionalGeneration(
        BartConfig(
            **{**BART_SHAPE, "init_std": 0.2}, scale_embedding=True, activation_function="relu"
        )
    )
    model.final_logits_bias.normal_(std=2.0)
    return model


def bart_untied() -> PreTrainedModel:
    return BartForConditionalGeneration(BartConfig(**BART_SHAPE, tie_word_embeddings=False))


def mbart() -> PreTrainedModel:
    return MBartForConditionalGeneration(
        MBartConfig(**BART_SHAPE, scale_embedding=True, decoder_start_token_id=2)
    )


def pegasus() -> PreTrainedModel:
    return PegasusForConditionalGeneration(
        PegasusConfig(**BART_SHAPE, scale_embedding=True, activation_function="relu")
    )


def plbart() -> PreTrainedModel:
    return PLBartForConditionalGeneration(PLBartConfig(**BART_SHAPE, decoder_start_token_id=5))


def marian() -> PreTrainedModel:
    config = MarianConfig(
        **BART_SHAPE,
        scale_embedding=True,
        activation_function="swish",
        pad_token_id=VOCAB - 1,
        decoder_start_token_id=VOCAB - 1,
    )
    model = MarianMTModel(config)
    model.final_logits_bias.normal_(std=1.0)
    return model


def marian_two_vocabularies() -> PreTrainedModel:
    config = MarianConfig(
        **BART_SHAPE,
        pad_token_id=60,
        decoder_start_token_id=60,
        decoder_vocab_size=77,
        share_encoder_decoder_embeddings=False,
        tie_word_embeddings=False,
        scale_embedding=True,
    )
    return MarianMTModel(config)


def m2m100() -> PreTrainedModel:
    return M2M100ForConditionalGeneration(
        M2M100Config(**BART_SHAPE, scale_embedding=True, decoder_start_token_id=2)
    )


def t5() -> PreTrainedModel:
    return T5ForConditionalGeneration(T5Config(**T5_SHAPE, decoder_start_token_id=0))


def t5_gated_untied() -> PreTrainedModel:
    config = T5Config(
        **T5_SHAPE,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
    )
    model = T5ForConditionalGeneration(config)
    model.lm_head.weight = torch.nn.Parameter(torch.randn(VOCAB, model.config.d_model))
    return model


def mt5() -> PreTrainedModel:
    return MT5ForConditionalGeneration(
        MT5Config(**T5_SHAPE, feed_forward_proj="gated-gelu", decoder_start_token_id=0)
    )


def whisper() -> PreTrainedModel:
    model = WhisperForConditionalGeneration(WhisperConfig(**WHISPER_SHAPE))
    model.generation_config = GenerationConfig(
        decoder_start_token_id=61, eos_token_id=60, pad_token_id=60, bos_token_id=60,
        suppress_tokens=[3, 5, 7], begin_suppress_tokens=[60, 9], no_timestamps_token_id=66,
        is_multilingual=True, lang_to_id={"<|en|>": 62, "<|de|>": 63},
        task_to_id={"translate": 64, "transcribe": 65},
        max_initial_timestamp_index=20, max_length=80,
    )  # fmt: skip
    return model


FAMILIES: dict[str, Callable[[], PreTrainedModel]] = {
    "bart": bart,
    "bart_scaled": bart_scaled,
    "bart_untied": bart_untied,
    "mbart": mbart,
    "pegasus": pegasus,
    "plbart": plbart,
    "marian": marian,
    "marian_two_vocabularies": marian_two_vocabularies,
    "m2m100": m2m100,
    "t5": t5,
    "t5_gated_untied": t5_gated_untied,
    "mt5": mt5,
    "whisper": whisper,
}


def make(name: str, folder: Path, **save_options: object) -> PreTrainedModel:
    """Saves a checkpoint of family `name` in `folder`.

    Returns the transformers model, which is the oracle.
    """
    torch.manual_seed(sum(map(ord, name)))
    model = FAMILIES[name]().eval()
    liven_text_model(model)
    model.save_pretrained(folder, **save_options)
    if name == "whisper":
        WhisperFeatureExtractor(feature_size=80, chunk_length=1).save_pretrained(folder)
    return model


def liven_text_model(model: PreTrainedModel) -> None:
    """Gives the model weights that make every layer matter.

    Fresh ones leave norms at one and biases at zero, which hides mistakes. They also let a tied
    head repeat its input for ever; norm weights of both signs break that.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.copy_(
                    torch.empty_like(parameter).uniform_(0.5, 1.5)
                    * torch.randn_like(parameter).sign()
                )
            elif parameter.dim() == 1:
                parameter.normal_(std=0.1)
            elif "relative_attention_bias" in name:
                parameter.normal_(std=1.0)
            elif "embed" in name or "shared" in name:
                if parameter.requires_grad:  # fixed sinusoids stay as they are
                    parameter.normal_(std=2.0 if "positions" in name else 1.0)
            elif parameter.dim() == 2 and "lm_head" not in name:
                gain = next(value for part, value in GAINS.items() if part in name)
                parameter.normal_(std=gain * parameter.shape[1] ** -0.5)


# By the first part of the name that fits: attention is sharp where inputs differ, and feed-forward
# layers do not drown it.
GAINS = {
    "q_proj": 3.0, "k_proj": 1.6, "encoder_attn.out_proj": 2.0, "fc2": 0.4,
    "Attention.q": 1.6, "Attention.k": 1.6, "EncDecAttention": 2.0, "": 1.3,
}  # fmt: skip
