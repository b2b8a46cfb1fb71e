"""`quantization_config` of config.json as a `StoredQuantization`, or refused by name."""

from collections.abc import Callable, Mapping
from typing import Any

from antiphon.config.errors import CheckpointError, UnsupportedModelError
from antiphon.families.quantization.bitsandbytes import read_bitsandbytes
from antiphon.families.quantization.compressed_tensors import read_compressed_tensors
from antiphon.families.quantization.fp8 import read_fbgemm_fp8, read_fp8
from antiphon.families.quantization.gptq import read_awq, read_gptq
from antiphon.families.quantization.scheme import StoredQuantization
from antiphon.families.quantization.torchao import read_torchao

Settings = Mapping[str, Any]
# A reader raises UnsupportedModelError for what is not read, with what can be done, and KeyError,
# TypeError or ValueError for settings that are garbled.
READERS: Mapping[str, Callable[[Settings], StoredQuantization]] = {
    "compressed-tensors": read_compressed_tensors,
    "sparseml": read_compressed_tensors,  # its older name
    "fp8": read_fp8,
    "fbgemm_fp8": read_fbgemm_fp8,
    "gptq": read_gptq,
    "awq": read_awq,
    "bitsandbytes": read_bitsandbytes,
    "torchao": read_torchao,
}
WHERE = ("quantization_config", "compression_config")
PARTS = ("text_config", "vision_config", "encoder", "decoder")


def stored_quantization(config: Settings, model: str) -> StoredQuantization | None:
    """Of a checkpoint's config.json; None where its weights are plain numbers.

    Raises UnsupportedModelError for a method, or a use of it, that is not read; CheckpointError
    for settings that are not valid.
    """
    settings = _settings(config)
    if not settings:
        return None
    if not isinstance(settings, Mapping):
        raise CheckpointError(f"quantization_config of {model} must be an object, not {settings!r}")
    method = str(settings.get("quant_method", "unknown method"))
    if method not in READERS:
        raise UnsupportedModelError(
            f"{model}: checkpoints quantised by {method} are not read; these are: "
            f"{', '.join(sorted(READERS))}. Or give the model that it was made from, and "
            "quantization='int8' or 'fp8' where its linear layers should have 8 bits"
        )
    try:
        return READERS[method](settings)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"{model}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"quantization_config of {model} ({method}) is not valid: {error!r}"
        ) from None


def _settings(config: Settings) -> Any:
    """Of the model or, in some models of images and text, of one of its halves."""
    parts = [config, *(config.get(name) or {} for name in PARTS)]
    settings = [part[name] for part in parts for name in WHERE if part.get(name)]
    return next(iter(settings), None)
