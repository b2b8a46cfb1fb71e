"""Names that vLLM, transformers, OpenAI's clients and faster-whisper know, and what becomes of them here.

A name that means the same under another name is an alias. One that cannot be honored is refused with the reason,
unless its value asks for what happens anyway (`best_of=1`).
"""

import re
import reprlib
from collections.abc import Mapping
from typing import Any

NotHonored = Mapping[
    str, tuple[tuple[Any, ...], str]
]  # name: (values that change nothing, why others are refused)


def shown(value: Any) -> str:
    """A short repr for messages, of anything."""
    try:
        return reprlib.repr(value)
    except ValueError:  # whole numbers of over 4300 digits have none
        return f"a number of {value.bit_length()} bits"


def refusal(name: str, value: Any, table: NotHonored) -> str | None:
    """Why a name of `table` is refused with this value; None where the value changes nothing."""
    neutral, reason = table[name]
    if value is None or any(type(value) is type(same) and value == same for same in neutral):
        return None
    return f"{name}={shown(value)} cannot be honored: {reason}"


_BEAMS = "beam search is not there yet"
_STRUCTURED = (
    "constrained decoding is not there yet; allowed_token_ids and logit_bias restrict single tokens"
)
SAMPLING: NotHonored = {
    "best_of": ((1,), f"{_BEAMS}, and n is the number of samples returned"),
    "use_beam_search": ((False,), _BEAMS),
    "num_beams": ((1,), _BEAMS),
    "beam_size": ((1,), _BEAMS),
    "beam_width": ((1,), _BEAMS),
    "num_beam_groups": ((1,), _BEAMS),
    "diversity_penalty": ((0.0,), _BEAMS),
    "length_penalty": ((1.0,), _BEAMS),
    "patience": ((1.0,), _BEAMS),
    "early_stopping": ((False,), _BEAMS),
    "do_sample": ((), "set temperature instead: 0 is greedy, above 0 draws"),
    "max_new_tokens": ((), "it is called max_tokens here"),
    "max_completion_tokens": ((), "it is called max_tokens here"),
    "max_length": ((), "give max_tokens, which counts generated tokens alone"),
    "min_new_tokens": ((), "it is called min_tokens here"),
    "min_length": ((), "give min_tokens, which counts generated tokens alone"),
    "num_return_sequences": ((1,), "it is called n here"),
    "stop_strings": ((), "it is called stop here"),
    "eos_token_id": ((), "give stop_token_ids"),
    "suppress_tokens": ((), "give logit_bias with -100 for each token"),
    "bad_words": (((), []), "only the checkpoint's bad_words_ids are obeyed; logit_bias bars single tokens"),
    "bad_words_ids": (((), []), "only the checkpoint's own are obeyed; logit_bias bars single tokens"),
    "no_repeat_ngram_size": ((0,), "only the checkpoint's own is obeyed"),
    "encoder_no_repeat_ngram_size": ((0,), "it is not there yet"),
    "typical_p": ((1.0,), "give top_p or min_p"),
    "epsilon_cutoff": ((0.0,), "give min_p"),
    "eta_cutoff": ((0.0,), "give min_p"),
    "top_a": ((0.0,), "give min_p"),
    "prompt_logprobs": ((), "log-probabilities of prompt tokens are not there yet; logprobs gives those of the output"),
    "top_logprobs": ((), "give logprobs, the number of likeliest tokens to return"),
    "echo": ((False,), "the output never repeats the prompt"),
    "suffix": ((), "these models fill no gaps"),
    "detokenize": ((True,), "text is always made; token ids come with it"),
    "spaces_between_special_tokens": ((True,), "the tokenizer decides about blanks"),
    "truncate_prompt_tokens": ((), "a prompt that is too long is refused: shorten or split it"),
    "structured_outputs": ((), _STRUCTURED),
    "guided_decoding": ((), _STRUCTURED),
    "guided_json": ((), _STRUCTURED),
    "guided_regex": ((), _STRUCTURED),
    "guided_choice": ((), _STRUCTURED),
    "guided_grammar": ((), _STRUCTURED),
    "response_format": ((), _STRUCTURED),
    "grammar": ((), _STRUCTURED),
    "logits_processors": ((), "Python functions can't run in the sampler; logit_bias and allowed_token_ids can"),
    "extra_args": (({},), "no plug-in takes any"),
    "output_kind": ((), "stream() gives what is new, generate() the whole"),
    "compression_ratio_threshold": ((), "decoding again at another temperature is not there yet"),
    "no_speech_threshold": ((), "it is not there yet"),
    "word_timestamps": ((False,), "words have no times yet"),
    "initial_prompt": ((), "give it as the decoder's prompt, behind <|startofprev|>"),
    "hotwords": ((), "they are not there yet"),
}  # fmt: skip


# ---------------------------------------------------------------------- engine options

OPTION_ALIASES = {
    "mm_encoder_attn_backend": "encoder_attention_backend",
    "torch_dtype": "dtype",
    "compute_type": "dtype",
    "block_size": "kv_page_size",
    "num_gpu_blocks_override": "num_kv_pages",
    "cpu_threads": "num_threads",
    "max_batch_size": "max_num_seqs",
}
_SPELLINGS = {
    "device": {"gpu": "cuda", "cpu:0": "cpu", "cuda:0": "cuda", "gpu:0": "cuda", "0": "cuda", "-1": "cpu"},
    "dtype": {
        "half": "float16", "fp16": "float16", "f16": "float16", "bf16": "bfloat16",
        "float": "float32", "single": "float32", "fp32": "float32", "f32": "float32", "default": "auto",
    },
    "kv_cache_dtype": {"fp8_e4m3": "fp8", "float8_e4m3fn": "fp8", "float8_e4m3": "fp8", "float8": "fp8"},
}  # fmt: skip
_REMEDIES = {  # for values of other engines that have no counterpart under the same name
    "dtype": {
        **{name: f"give quantization='{name.partition('_')[0]}'" for name in (
            "int8", "int8_float32", "int8_float16", "int8_bfloat16", "fp8",
        )},
        **dict.fromkeys(("float8", "float8_e4m3fn"), "give quantization='fp8'"),
        "float64": "weights are read as float32 at most", "double": "weights are read as float32 at most",
    },
    "device": dict.fromkeys(("mps", "xpu", "npu", "tpu", "rocm", "hip"), "only CPUs and CUDA devices are used"),
}  # fmt: skip
_AS_WRITTEN = ("model", "revision", "address")
_OTHER_GPU = re.compile(r"(?:cuda|gpu)?:?(\d+)")
_ONE_GPU = (
    "not there yet: each half runs on one GPU; encoder_replicas and decoder_replicas use more"
)
OPTIONS: NotHonored = {
    "tensor_parallel_size": ((1,), _ONE_GPU),
    "pipeline_parallel_size": ((1,), _ONE_GPU),
    "data_parallel_size": ((1,), "give decoder_replicas and encoder_replicas"),
    "attention_backend": ((), "each half has its own: give encoder_attention_backend or decoder_attention_backend"),
    "attn_implementation": ((), "give encoder_attention_backend or decoder_attention_backend"),
    "gpu_memory_utilization": ((), "give kv_cache_memory_gib; without it the KV cache takes 85 % of what is free"),
    "kv_cache_memory_bytes": ((), "give kv_cache_memory_gib"),
    "max_seq_len": ((), "it is called max_model_len (decoder) or max_encoder_len here"),
    "max_length": ((), "it is called max_model_len (decoder) or max_encoder_len here"),
    "tokenizer": ((), "the checkpoint's own is used; put another into its folder"),
    "tokenizer_mode": (("auto",), "the checkpoint's own tokenizer is used"),
    "skip_tokenizer_init": ((False,), "the tokenizer is needed"),
    "trust_remote_code": ((False,), "no code of a checkpoint is ever run"),
    "device_map": (("auto", "cuda", "cpu"), "give device and placement"),
    "device_index": ((0,), "set CUDA_VISIBLE_DEVICES"),
    "load_in_8bit": ((False,), "give quantization='int8'"),
    "load_in_4bit": ((False,), "4 bits are not there; give quantization='int8'"),
    "seed": ((), "give seed to SamplingParams"),
    "swap_space": ((0, 0.0), "nothing is swapped: a request that loses its pages is computed again"),
    "cpu_offload_gb": ((0, 0.0), "weights stay on their device"),
    "limit_mm_per_prompt": ((), "a prompt takes one recording"),
    "mm_processor_kwargs": ((), "the checkpoint's preprocessor settings are used"),
    "enable_prefix_caching": ((False,), "equal inputs share their encoding; equal prefixes of prompts don't yet"),
    "enable_chunked_prefill": ((True, False), "there is nothing to choose"),
    "distributed_executor_backend": (("ray",), "workers are Ray actors, or with ray=False in this process"),
    "enable_lora": ((False,), "adapters are not there yet: merge one into its model"),
    "speculative_config": ((), "speculative decoding is not there yet"),
    "compilation_config": ((), "give enforce_eager; there is nothing else to choose"),
    "hf_overrides": ((), "change config.json"),
    "disable_log_stats": ((True, False), "there is no such log"),
    "num_workers": ((1,), "give encoder_replicas or decoder_replicas"),
    "download_root": ((), "set HF_HOME"),
    "cache_dir": ((), "set HF_HOME"),
    "download_dir": ((), "set HF_HOME"),
    "local_files_only": ((False,), "set HF_HUB_OFFLINE=1"),
    "language": ((), "give it to transcribe()"),
    "task": ((), "give it to transcribe()"),
    "beam_size": ((1,), _BEAMS),
    "num_beams": ((1,), _BEAMS),
}  # fmt: skip


def option_value(name: str, value: Any) -> Any:
    """Another engine's spelling of a value in ours: torch.float16, 'half', 'cuda:0', 'FLASHINFER'."""
    text = _as_text(value) if name in _SPELLINGS else value
    if not isinstance(text, str) or name in _AS_WRITTEN:
        return text
    text = text.strip().lower()
    return _SPELLINGS.get(name, {}).get(text, text)


def remedy(name: str, value: Any) -> str:
    """What to give instead of a value that an option does not have, from ': ' on; empty where there is none."""
    if not isinstance(value, str):
        return ""
    if name == "device" and (other := _OTHER_GPU.fullmatch(value)):
        return f": Ray places the workers; for that GPU alone set CUDA_VISIBLE_DEVICES={other[1]} and give device='cuda'"
    reason = _REMEDIES.get(name, {}).get(value)
    return f": {reason}" if reason else ""


def _as_text(value: Any) -> Any:
    """torch's and numpy's devices and dtypes by their names, without an import of either; and transformers' numbers of devices."""
    if type(value).__module__.partition(".")[0] in ("torch", "numpy"):
        return str(value).removeprefix("torch.")
    if isinstance(value, type) and value.__module__ == "numpy":
        return value.__name__
    if isinstance(value, str):
        return value.removeprefix("torch.")
    return str(value) if type(value) is int and -1 <= value < 1024 else value
