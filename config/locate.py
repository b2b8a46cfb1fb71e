"""Where a checkpoint is (a folder, a hub id or a size); formats that are not read."""

import json
import os
import re
from collections.abc import Collection
from fnmatch import fnmatch
from itertools import chain
from pathlib import Path
from typing import Any

from antiphon.config.errors import CheckpointError
from antiphon.config.hub_errors import not_fetched

_OPENAI = [
    "tiny", "tiny.en", "base", "base.en", "small", "small.en", "medium", "medium.en",
    "large", "large-v2", "large-v3", "large-v3-turbo",
]  # fmt: skip
_DISTIL = ["small.en", "medium.en", "large-v2", "large-v3", "large-v3.5"]
SIZES = {  # hub ids by size
    **{name: f"openai/whisper-{name}" for name in _OPENAI},
    "large-v1": "openai/whisper-large",
    "turbo": "openai/whisper-large-v3-turbo",
    **{f"distil-{name}": f"distil-whisper/distil-{name}" for name in _DISTIL},
}
SIZES |= {
    f"whisper-{name}": hub_id for name, hub_id in SIZES.items() if not name.startswith("distil")
}

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
# Read besides weights. Files in subfolders belong to other formats and variants.
_DESCRIPTIONS = ["*.json", "*.txt", "*.model", "*.spm"]
# Formats of weights in order of preference: the first whose own file exists is read. By
# that file, the patterns of all files that belong to it.
WEIGHTS = {
    "model.safetensors": ["model.safetensors"],
    "model.safetensors.index.json": ["model-*-of-*.safetensors", "model.safetensors.index.json"],
    "pytorch_model.bin": ["pytorch_model.bin"],
    "pytorch_model.bin.index.json": ["pytorch_model-*-of-*.bin", "pytorch_model.bin.index.json"],
    "model.bin": ["model.bin"],  # CTranslate2's (faster-whisper's)
}


def locate(model: str, revision: str | None) -> Path:
    """The folder of a checkpoint: a local one as it is, a size or hub id fetched from
    the hub or from its cache.

    Raises CheckpointError, which says what there is instead of a checkpoint.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        _check_names({path.name for path in folder.iterdir()}, str(folder), folder)
        return folder.resolve()
    if folder.exists():
        raise CheckpointError(
            f"{model} is a file: give the folder of a checkpoint in transformers format"
        )
    if model in SIZES:
        return _fetch(SIZES[model], revision)
    if not _HUB_ID.fullmatch(model):
        raise CheckpointError(
            f"no such folder: {model}. Give a folder with a checkpoint, a hub id such as "
            "openai/whisper-tiny, or a size such as large-v3"
        )
    return _fetch(model, revision)


def _fetch(model: str, revision: str | None) -> Path:
    import huggingface_hub

    try:
        names = _wanted(_listing(model, revision), model)
        # Without a listing (offline) whatever the hub's cache holds is taken.
        patterns = names or [*_DESCRIPTIONS, *chain.from_iterable(WEIGHTS.values())]
        return Path(
            huggingface_hub.snapshot_download(
                model, revision=revision, allow_patterns=patterns, ignore_patterns=["*/*"]
            )
        )
    except CheckpointError:
        raise
    except Exception as error:  # the hub's client raises many types (network, auth, validation)
        raise not_fetched(model, revision, error, [*SIZES, *SIZES.values()]) from error


def _listing(model: str, revision: str | None) -> list[str] | None:
    """The names of a repository's files; None if the hub can't be reached, in which
    case its cache may still hold what is needed."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    try:
        siblings = huggingface_hub.model_info(model, revision=revision, timeout=10).siblings or []
    except HfHubHTTPError:
        raise  # the hub has answered: no such repository or revision, or no access
    except Exception:  # offline by choice or accident; every transport raises its own types
        return None
    return [sibling.rfilename for sibling in siblings]


def _wanted(listing: list[str] | None, model: str) -> list[str]:
    """The files of a repository that are read: descriptions, and weights in the first
    format of WEIGHTS that it has."""
    if listing is None:
        return []
    names = [name for name in listing if "/" not in name]
    _check_names(names, model, None)
    weights = next((patterns for own, patterns in WEIGHTS.items() if own in names), [])
    return [
        name
        for name in names
        if any(fnmatch(name, pattern) for pattern in weights)
        or (
            any(fnmatch(name, pattern) for pattern in _DESCRIPTIONS)
            and not name.endswith(".index.json")
        )
    ]


def _check_names(names: Collection[str], model: str, folder: Path | None) -> None:
    """Raises CheckpointError for files that are named as in another format."""
    if any(name in names for name in WEIGHTS) and "config.json" in names:
        return
    if reason := _other_format(names, folder):
        raise CheckpointError(f"{model} {reason}")
    if "config.json" not in names:
        empty = "is an empty folder: it " if not names else ""
        raise CheckpointError(
            f"{model} {empty}holds no config.json: is it a checkpoint in transformers format?"
        )


def _other_format(names: Collection[str], folder: Path | None) -> str | None:
    """What `folder` holds instead of a transformers checkpoint, and the remedy; None if
    its files are of no known format."""

    def some(*patterns: str) -> bool:
        return any(fnmatch(name, pattern) for name in names for pattern in patterns)

    if "adapter_config.json" in names:
        base = _base_model(folder) or "its base model"
        return (
            f"is an adapter (LoRA) of {base}, which is not read by itself: merge the two with "
            "peft's merge_and_unload() and save the result"
        )
    if some("*.gguf", "ggml-*.bin"):
        return (
            "is in GGUF's or ggml's format (llama.cpp's, whisper.cpp's): give the transformers "
            "checkpoint that it was made from"
        )
    if some("*.nemo"):
        return "is in NeMo's format, which is not read"
    if "config.json" not in names and some("*.pt"):
        return (
            "holds weights in OpenAI's or another format of its own (.pt): give a checkpoint in "
            "transformers format, such as openai/whisper-tiny"
        )
    if some("tf_model.h5", "flax_model.msgpack", "*.onnx", "openvino_model.*", "rust_model.ot"):
        return (
            "holds weights for TensorFlow, Flax, ONNX, OpenVINO or Rust only: save them from "
            "transformers as model.safetensors"
        )
    return None


def _base_model(folder: Path | None) -> str | None:
    """The model that an adapter in a local folder belongs to, if the adapter says."""
    if folder is None:
        return None
    try:
        settings: Any = json.loads((folder / "adapter_config.json").read_text("utf-8-sig"))
        return os.fspath(settings["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
