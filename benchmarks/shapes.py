"""Published configurations by name, to be measured with random weights and without a download.

The numbers are from the config.json files of the checkpoints on huggingface.co.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from antiphon.benchmarks import image_shapes
from antiphon.inputs.languages.names import NAMES
from antiphon.inputs.whisper.tokens import SECONDS_PER_TICK

_LARGE_V3: dict[str, Any] = {
    "architectures": ["WhisperForConditionalGeneration"],
    "model_type": "whisper",
    "d_model": 1280,
    "encoder_layers": 32,
    "decoder_layers": 32,
    "encoder_attention_heads": 20,
    "decoder_attention_heads": 20,
    "encoder_ffn_dim": 5120,
    "decoder_ffn_dim": 5120,
    "num_mel_bins": 128,
    "vocab_size": 51866,
    "max_source_positions": 1500,
    "max_target_positions": 448,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "pad_token_id": 50256,
    "bos_token_id": 50257,
    "eos_token_id": 50257,
    "decoder_start_token_id": 50258,
}
# Of its generation_config.json: [layer, head].
LARGE_V3_ALIGNMENT_HEADS = [
    [7, 0], [10, 17], [12, 18], [13, 12], [16, 1], [17, 14], [19, 11], [21, 4], [24, 1], [25, 6],
]  # fmt: skip
_WHISPER_BASE: dict[str, Any] = {
    **_LARGE_V3,
    "d_model": 512,
    "encoder_layers": 6,
    "decoder_layers": 6,
    "encoder_attention_heads": 8,
    "decoder_attention_heads": 8,
    "encoder_ffn_dim": 2048,
    "decoder_ffn_dim": 2048,
    "num_mel_bins": 80,
}
# The tokens behind the texts' in its tokenizer, by id; languages stand in OpenAI's order.
_LARGE_V3_TOKENS = dict(
    enumerate(
        [
            "<|endoftext|>",
            "<|startoftranscript|>",
            *(f"<|{code}|>" for code in NAMES),
            *(f"<|{name}|>" for name in ("translate", "transcribe", "startoflm", "startofprev")),
            "<|nospeech|>",
            "<|notimestamps|>",
            *(f"<|{tick * SECONDS_PER_TICK:.2f}|>" for tick in range(1501)),
        ],
        start=50257,
    )
)
_BART_LARGE_CNN: dict[str, Any] = {
    "architectures": ["BartForConditionalGeneration"],
    "model_type": "bart",
    "d_model": 1024,
    "encoder_layers": 12,
    "decoder_layers": 12,
    "encoder_attention_heads": 16,
    "decoder_attention_heads": 16,
    "encoder_ffn_dim": 4096,
    "decoder_ffn_dim": 4096,
    "vocab_size": 50264,
    "max_position_embeddings": 1024,
    "activation_function": "gelu",
    "decoder_start_token_id": 2,
    "eos_token_id": 2,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
}


def _flan_t5(d_model: int, d_ff: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "d_kv": 64,
        "feed_forward_proj": "gated-gelu",
        "vocab_size": 32128,
        "tie_word_embeddings": False,
        "decoder_start_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "d_model": d_model,
        "d_ff": d_ff,
        "num_layers": layers,
        "num_decoder_layers": layers,
        "num_heads": heads,
    }


PUBLISHED: dict[str, dict[str, Any]] = {
    "whisper-large-v3": _LARGE_V3,
    "whisper-large-v3-turbo": {**_LARGE_V3, "decoder_layers": 4},
    "whisper-base": _WHISPER_BASE,
    "bart-large-cnn": _BART_LARGE_CNN,
    "flan-t5-base": _flan_t5(768, 2048, 12, 12),
    "flan-t5-xl": _flan_t5(2048, 5120, 24, 32),
    **image_shapes.MODELS,
}


def write_checkpoint(config: dict[str, Any], folder: Path) -> None:
    """A folder without weights: the configuration, a tokenizer with one word for every id where
    there are any, and settings for images."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    (folder / "config.json").write_text(json.dumps(config))
    is_whisper = config["model_type"] == "whisper"
    named = _LARGE_V3_TOKENS if is_whisper else image_shapes.named_tokens(config)
    if is_whisper:
        generation = {
            "is_multilingual": True,
            "eos_token_id": config["eos_token_id"],
            "max_initial_timestamp_index": 50,
        }
        (folder / "generation_config.json").write_text(json.dumps(generation))
    image_shapes.write_preprocessor(config, folder)
    size = {**config, **config.get("text_config", {})}.get("vocab_size", 0)
    if size:
        words = {named.get(id_, f"w{id_}"): id_ for id_ in range(size)}
        tokens = Tokenizer(WordLevel(words, unk_token="w0"))
        PreTrainedTokenizerFast(tokenizer_object=tokens).save_pretrained(folder)


def speech_shape(model: str) -> dict[str, Any]:
    """Of a published Whisper, or of "tiny": for trying a script out on a CPU."""
    small: dict[str, Any] = {"encoder_layers": 1, "decoder_layers": 1, "d_model": 64}
    small |= {f"{half}_attention_heads": 2 for half in ("encoder", "decoder")}
    small |= {f"{half}_ffn_dim": 64 for half in ("encoder", "decoder")}
    return {**PUBLISHED, "tiny": {**PUBLISHED["whisper-base"], **small}}[model]


@contextmanager
def speech_of_one_length(model: str, tokens: int) -> Iterator[str]:
    """A folder with a Whisper's configuration under which every window generates `tokens` tokens.
    `model`: as `speech_shape` takes it."""
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(speech_shape(model), Path(folder))
        path = Path(folder) / "generation_config.json"
        settings = json.loads(path.read_text())
        settings |= {"suppress_tokens": [settings["eos_token_id"]], "max_new_tokens": tokens}
        settings |= {"language": "en", "task": "transcribe"}
        if model == "whisper-large-v3":
            settings["alignment_heads"] = LARGE_V3_ALIGNMENT_HEADS
        path.write_text(json.dumps(settings))
        yield folder
