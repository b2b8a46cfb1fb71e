"""Which model a size or id means, and how it is loaded."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from antiphon.config.errors import ConfigurationError, near
from antiphon.families.ctranslate2 import CTranslate2Model, is_ctranslate2

# By size, the repositories that faster-whisper's users have in their caches.
MODELS = {
    **{
        size: f"Systran/faster-whisper-{size}"
        for size in (
            "tiny.en", "tiny", "base.en", "base", "small.en", "small", "medium.en", "medium",
            "large-v1", "large-v2", "large-v3",
        )
    },
    "large": "Systran/faster-whisper-large-v3",
    **{
        f"distil-{size}": f"Systran/faster-distil-whisper-{size}"
        for size in ("large-v2", "medium.en", "small.en", "large-v3")
    },
    "distil-large-v3.5": "distil-whisper/distil-large-v3.5-ct2",
    "large-v3-turbo": "mobiuslabsgmbh/faster-whisper-large-v3-turbo",
    "turbo": "mobiuslabsgmbh/faster-whisper-large-v3-turbo",
}  # fmt: skip
FILES = ["*.json", "vocabulary.*", "model.bin", "model.safetensors", "merges.txt"]
# CTranslate2's compute types as the engine's options.
COMPUTE_TYPES: Mapping[str, dict[str, str]] = {
    "default": {},
    "auto": {},
    "float32": {"dtype": "float32"},
    "float16": {"dtype": "float16"},
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"quantization": "int8"},
    "int8_float32": {"quantization": "int8", "dtype": "float32"},
    "int8_float16": {"quantization": "int8", "dtype": "float16"},
    "int8_bfloat16": {"quantization": "int8", "dtype": "bfloat16"},
}
# Arguments of CTranslate2's own class that change nothing here, and those that would.
WITHOUT_EFFECT = frozenset({"inter_threads", "max_queued_batches", "flash_attention"})
REFUSED = {"tensor_parallel": "give tensor_parallel_size= to antiphon.Engine, which runs on Ray"}


def available_models() -> list[str]:
    """The sizes that have a name."""
    return list(MODELS)


def download_model(
    size_or_id: str,
    output_dir: str | None = None,
    local_files_only: bool = False,
    cache_dir: str | None = None,
    revision: str | None = None,
    use_auth_token: str | bool | None = None,
) -> str:
    """The folder of a size or hub id: fetched, or taken from the cache.

    Raises ValueError for an unknown size, and what the hub's client raises.
    """
    import huggingface_hub

    options: dict[str, Any] = {
        "local_files_only": local_files_only,
        "allow_patterns": FILES,
        "revision": revision,
        "local_dir": output_dir,
        "cache_dir": cache_dir,
        "token": use_auth_token,
    }
    settings = {name: value for name, value in options.items() if value is not None}
    return str(huggingface_hub.snapshot_download(repository(size_or_id), **settings))


def repository(size_or_id: str) -> str:
    """The hub id. Raises ValueError for an unknown size."""
    if "/" in size_or_id:
        return size_or_id
    if size_or_id not in MODELS:
        raise ValueError(
            f"Invalid model size '{size_or_id}', expected a folder, a hub id, or one of "
            f"{', '.join(MODELS)}.{near(size_or_id, MODELS)}"
        )
    return MODELS[size_or_id]


def engine_options(
    folder: Path | None,
    device: str,
    device_index: int | list[int],
    compute_type: str,
    cpu_threads: int,
    others: Mapping[str, Any],
) -> dict[str, Any]:
    """Options of the engine for the arguments of `WhisperModel`. `folder`: of the model, if it is
    here already. Raises ConfigurationError for what can't be done."""
    for name, value in others.items():
        if name in REFUSED and value:
            raise ConfigurationError(f"WhisperModel({name}={value!r}): {REFUSED[name]}")
        if name not in WITHOUT_EFFECT and name not in REFUSED:
            raise TypeError(f"WhisperModel() got an unexpected keyword argument '{name}'")
    if device_index not in (0, [0], (0,)):
        raise ConfigurationError(
            f"device_index={device_index!r}: the engine of this process runs on its first GPU. Set "
            "CUDA_VISIBLE_DEVICES to choose it, or serve several with antiphon.Engine on Ray"
        )
    if compute_type not in COMPUTE_TYPES:
        raise ConfigurationError(
            f"compute_type='{compute_type}' is not one of {', '.join(COMPUTE_TYPES)}"
        )
    options: dict[str, Any] = {
        "ray": False,
        "device": device,
        "encoder_window": "zeros",  # as theirs
        **COMPUTE_TYPES[compute_type],
    }
    if compute_type in ("default", "auto") and folder is not None and _has_eight_bits(folder):
        options["quantization"] = "int8"  # as the file is
    if cpu_threads:
        options["num_threads"] = cpu_threads
    return options


def _has_eight_bits(folder: Path) -> bool:
    return is_ctranslate2(folder) and CTranslate2Model(folder).has_eight_bits
