"""Options and values of other engines: ours for the same, or why there is none."""

import re
from collections.abc import Collection, Mapping
from typing import Any

from antiphon.config.errors import ConfigurationError, nearest
from antiphon.config.foreign import NotHonored, refusal
from antiphon.config.speculation import flat_options

ALIASES = {
    "mm_encoder_attn_backend": "encoder_attention_backend",
    "torch_dtype": "dtype",
    "compute_type": "dtype",
    "block_size": "kv_page_size",
    "num_gpu_blocks_override": "num_kv_pages",
    "cpu_threads": "num_threads",
    "max_batch_size": "max_num_seqs",
    "mm_encoder_tp_mode": "encoder_tp_mode",
    "limit_mm_per_prompt": "limit_images_per_prompt",
}
FOR_BOTH_HALVES = {  # by what others type for a model of one half: what it means
    "tensor_parallel_size": "ranks of each half that share every layer",
    "pipeline_parallel_size": "stages of each half that share its layers",
}
_SPELLINGS = {  # by option: other engines' spelling of a value, and ours
    "device": {
        "gpu": "cuda",
        "cpu:0": "cpu",
        "cuda:0": "cuda",
        "gpu:0": "cuda",
        "0": "cuda",
        "-1": "cpu",
    },
    "dtype": {
        **dict.fromkeys(("half", "fp16", "f16"), "float16"),
        **dict.fromkeys(("float", "single", "fp32", "f32"), "float32"),
        "bf16": "bfloat16",
        "default": "auto",
    },
    "generation_config": {"vllm": "none"},
    "kv_cache_dtype": dict.fromkeys(("fp8_e4m3", "float8_e4m3fn", "float8_e4m3", "float8"), "fp8"),
}
_INT8 = ("int8", "int8_float32", "int8_float16", "int8_bfloat16")
_FP8 = ("fp8", "float8", "float8_e4m3fn")
_REMEDIES = {  # by option: values of other engines that have no counterpart, and what to do instead
    "dtype": {
        **dict.fromkeys(_INT8, "give quantization='int8'"),
        **dict.fromkeys(_FP8, "give quantization='fp8'"),
        **dict.fromkeys(("float64", "double"), "weights are read as float32 at most"),
    },
    "device": dict.fromkeys(
        ("mps", "xpu", "npu", "tpu", "rocm", "hip"), "only CPUs and CUDA devices are used"
    ),
}
_AS_WRITTEN = ("model", "revision", "address")
_OTHER_GPU = re.compile(r"(?:cuda|gpu)?:?(\d+)")
NOT_HONORED: NotHonored = {
    "data_parallel_size": ((1,), "give decoder_replicas and encoder_replicas"),
    "attention_backend": (
        (),
        "each half has its own: give encoder_attention_backend or decoder_attention_backend",
    ),
    "attn_implementation": ((), "give encoder_attention_backend or decoder_attention_backend"),
    "gpu_memory_utilization": (
        (),
        "give kv_cache_memory_gib; without it the KV cache takes 85 % of what is free",
    ),
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
    "load_in_4bit": (
        (False,),
        "a checkpoint of 4 bits is read as it is: `antiphon quantize` makes one",
    ),
    "seed": ((), "give seed to SamplingParams"),
    "swap_space": (
        (0, 0.0),
        "nothing is swapped: a request that loses its pages is computed again",
    ),
    "cpu_offload_gb": ((0, 0.0), "weights stay on their device"),
    "mm_processor_kwargs": ((), "the checkpoint's preprocessor settings are used"),
    "enable_chunked_prefill": ((True, False), "there is nothing to choose"),
    "distributed_executor_backend": (
        ("ray",),
        "workers are Ray actors, or with ray=False in this process",
    ),
    "enable_lora": ((False,), "adapters are not there yet: merge one into its model"),
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
    "beam_size": ((1,), "give SamplingParams(beam_size=...) to the call"),
    "num_beams": ((1,), "give SamplingParams(beam_size=...) to the call"),
}


def by_own_names(options: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Options by our `names`. An option of both halves becomes one for each half.

    Raises ConfigurationError for an unknown name (with the nearest valid one), for one
    that cannot be honored, and for one that is given twice.
    """
    own: dict[str, Any] = {}
    pairs = [(name, value) for name, value in options.items() if name != "speculative_config"]
    for spelling, value in (*pairs, *flat_options(options.get("speculative_config")).items()):
        if spelling == "limit_mm_per_prompt" and value is not None:
            value = _limit_of_images(value)
        if spelling == "allowed_media_domains" and isinstance(value, list | tuple):
            value = ",".join(map(str, value)) or None
        for name in _own_names(spelling):
            if name in own:
                raise ConfigurationError(
                    f"'{spelling}' is another name of '{name}': give one of them"
                )
            if name in names:
                own[name] = value
            elif name not in NOT_HONORED:
                raise ConfigurationError(
                    f"unknown option '{spelling}'.{nearest(str(spelling), list(names))}"
                )
            elif (reason := refusal(name, value, NOT_HONORED)) is not None:
                raise ConfigurationError(reason)
    return own


def _limit_of_images(limits: Any) -> int | None:
    """Of what other engines write as {"image": 2}.

    Elsewhere, a limit of 0 videos or recordings saves room, which is never set aside
    for them here. Raises ConfigurationError for limits that do not hold here.
    """
    if not isinstance(limits, Mapping):
        raise ConfigurationError(
            "limit_mm_per_prompt must be a mapping such as {'image': 2}, "
            f"not {type(limits).__name__}"
        )
    images, videos = limits.get("image"), limits.get("video") or None
    if limits.get("audio") not in (None, 0, 1):
        raise ConfigurationError(
            f"limit_mm_per_prompt={dict(limits)}: a prompt takes one recording; only the number of "
            "images and videos can be chosen"
        )
    if images is not None and videos not in (None, images):
        raise ConfigurationError(
            f"limit_mm_per_prompt={dict(limits)}: images and videos have one limit here "
            "(limit_images_per_prompt): give both the same number"
        )
    return videos if images is None else images


def _own_names(spelling: str) -> tuple[str, ...]:
    if spelling in FOR_BOTH_HALVES:
        return f"encoder_{spelling}", f"decoder_{spelling}"
    return (ALIASES.get(spelling, spelling),)


def option_value(name: str, value: Any) -> Any:
    """Our spelling of other engines' values: torch.float16, 'half', 'FLASHINFER'."""
    text = _as_text(value) if name in _SPELLINGS else value
    if not isinstance(text, str) or name in _AS_WRITTEN:
        return text
    text = text.strip().lower()
    return _SPELLINGS.get(name, {}).get(text, text)


def remedy(name: str, value: Any) -> str:
    """A colon and what to give instead of a value that an option does not have. Empty
    if nothing is known of the value."""
    if not isinstance(value, str):
        return ""
    if name == "device" and (other := _OTHER_GPU.fullmatch(value)):
        return (
            ": Ray places the workers; for that GPU alone set "
            f"CUDA_VISIBLE_DEVICES={other[1]} and give device='cuda'"
        )
    reason = _REMEDIES.get(name, {}).get(value)
    return f": {reason}" if reason else ""


def _as_text(value: Any) -> Any:
    """The names of torch's and numpy's devices and dtypes, without importing either,
    and those of transformers' device numbers. Anything else stays as it is."""
    if type(value).__module__.partition(".")[0] in ("torch", "numpy"):
        return str(value).removeprefix("torch.")
    if isinstance(value, type) and value.__module__ == "numpy":
        return value.__name__
    if isinstance(value, str):
        return value.removeprefix("torch.")
    return str(value) if type(value) is int and -1 <= value < 1024 else value
