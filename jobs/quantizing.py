"""Writes a quantised checkpoint, by llm-compressor, in compressed-tensors' format."""

import logging
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from antiphon.config.errors import ConfigurationError
from antiphon.config.locate import WEIGHTS
from antiphon.families.checkpoint import ModelConfig
from antiphon.jobs.calibration import Samples, read_lines, reads

logger = logging.getLogger(__name__)

SCHEMES = ("fp8", "w8a8", "w4a16")
GROUP_SIZES = (128, 64, 32)  # of inputs that share a scale of four-bit weights, in order
BINARY = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".gguf", ".onnx")
# Modules that read pictures, and what carries them to words: published checkpoints keep them.
KEPT = ("re:.*visual.*", "re:.*vision_(tower|model).*", "re:.*multi_modal_projector.*")
INSTALL = "pip install 'antiphon[quantize]' in an environment of its own"


@dataclass(frozen=True)
class Quantization:
    """What `quantize` writes. `scheme`: one of SCHEMES. `calibration`: as `read_lines` takes it,
    of which `samples` lines are read; None for none. Raises ConfigurationError."""

    scheme: str
    calibration: str | None = None
    samples: int = 256

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise ConfigurationError(f"--scheme is one of {', '.join(SCHEMES)}, not {self.scheme}")


def quantize(model: ModelConfig, quantization: Quantization, output: Path) -> None:
    """Writes `model` into the folder `output`, which must be empty or not exist.

    fp8: weights with a scale per output; inputs with one per token, or, where there is calibration,
    one for all, found beforehand. w8a8: int8 weights with a scale per output, inputs with one per
    token. w4a16: weights of four bits, with a scale for each group of inputs. Weights of the last
    two are rounded to the nearest, or, with calibration, by GPTQ (Frantar et al. 2022).

    Raises ConfigurationError where llm-compressor is not installed or a size does not suit;
    ManifestError and InputError for calibration data that can't be read.
    """
    if model.quantization is not None:
        raise ConfigurationError(
            f"{model.path} is quantised already ({model.quantization.method}): give the model that "
            "it was made from"
        )
    if output.exists() and any(output.iterdir()):
        raise ConfigurationError(f"{output} is not empty: give another folder")
    lines = None
    if quantization.calibration is not None:
        lines = read_lines(quantization.calibration, reads(model), quantization.samples)
    oneshot = _oneshot()
    whole = _load(model)
    recipe = _recipe(quantization, whole, calibrated=lines is not None)
    processor = _processor(model)
    if lines is None:
        oneshot(model=whole, recipe=recipe, processor=processor, pipeline="datafree", log_dir=None)
    else:
        logger.info("calibrating with %d inputs", len(lines))
        samples = list(Samples(lines, whole, processor))
        oneshot(
            model=whole,
            recipe=recipe,
            processor=processor,
            dataset=_loader(samples),
            num_calibration_samples=len(samples),
            pipeline="basic",  # the others trace the model, which not every family allows
            log_dir=None,
        )
    output.mkdir(parents=True, exist_ok=True)
    whole.save_pretrained(output, save_compressed=True)
    _copy_descriptions(model.path, output)


def _oneshot() -> Any:
    try:
        from llmcompressor import oneshot
    except ImportError as error:
        raise ConfigurationError(
            f"antiphon quantize needs llm-compressor, which is not usable here ({error}): {INSTALL}"
        ) from None
    return oneshot


def _load(model: ModelConfig) -> Any:
    import transformers

    name = model.family.translated_name or model.architecture
    kind = getattr(transformers, name, None) or getattr(transformers, model.architecture)
    return kind.from_pretrained(model.path, dtype="auto").eval()


def _processor(model: ModelConfig) -> Any:
    from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoProcessor, AutoTokenizer

    kinds = {
        "audio": AutoFeatureExtractor,
        "image": AutoImageProcessor,
        "image_text": AutoProcessor,
    }
    return kinds.get(reads(model) or "text", AutoTokenizer).from_pretrained(model.path)


def _loader(samples: list[dict[str, Any]]) -> Any:
    from torch.utils.data import DataLoader

    return DataLoader(samples, batch_size=None)  # type: ignore[arg-type]


def _recipe(quantization: Quantization, whole: Any, calibrated: bool) -> Any:
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier

    kept = [*KEPT, *_heads(whole)]
    if quantization.scheme == "fp8":
        preset = "FP8" if calibrated else "FP8_DYNAMIC"
        return QuantizationModifier(targets="Linear", scheme=preset, ignore=kept)
    kind = GPTQModifier if calibrated else QuantizationModifier
    if quantization.scheme == "w8a8":
        return kind(targets="Linear", scheme="W8A8", ignore=kept)
    return kind(config_groups={"group_0": _four_bits(whole)}, ignore=kept)


def _heads(whole: Any) -> list[str]:
    """The names of the module that makes logits."""
    head = whole.get_output_embeddings()
    return [name for name, module in whole.named_modules() if module is head and head is not None]


def _four_bits(whole: Any) -> Any:
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    size = _group_size(_inputs(whole))
    weights = QuantizationArgs(num_bits=4, strategy="group", group_size=size, symmetric=True)
    return QuantizationScheme(targets=["Linear"], weights=weights)


def _inputs(whole: Any) -> set[int]:
    from torch import nn

    return {module.in_features for module in whole.modules() if isinstance(module, nn.Linear)}


def _group_size(inputs: Iterable[int]) -> int:
    """The largest that all numbers of `inputs` are multiples of. Raises ConfigurationError."""
    inputs = sorted(inputs)
    for size in GROUP_SIZES:
        if not any(number % size for number in inputs):
            return size
    raise ConfigurationError(
        f"w4a16: layers have {', '.join(map(str, inputs))} inputs, which are not all multiples of "
        f"{GROUP_SIZES[-1]}: use --scheme w8a8"
    )


def _copy_descriptions(source: Path, output: Path) -> None:
    """Tokenizer, processor and generation settings, as they were."""
    weights = {pattern for patterns in WEIGHTS.values() for pattern in patterns}
    for file in source.iterdir():
        is_weight = any(file.match(pattern) for pattern in weights) or file.suffix in BINARY
        if file.is_file() and not is_weight and file.name != "config.json":
            shutil.copy(file, output / file.name)
