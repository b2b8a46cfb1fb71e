"""What `antiphon info` says of a quantised checkpoint."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from packed_checkpoints import write_packed
from transformers import AutoModelForSeq2SeqLM

from antiphon.cli.describe import describe_model


@pytest.mark.parametrize(
    ("method", "label", "bits"),
    [
        ("gptq", "gptq: weights int4, groups of 8, zero points", 4 + 4 * 8 / 8),
        ("llm_int8", "bitsandbytes: weights int8, a scale per output", 8 + 4 * 8 / 48),
    ],
)
def test_scheme_and_bytes(
    method: str, label: str, bits: float, folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    plain = folder_of("bart")
    packed, dense = write_packed(
        plain, AutoModelForSeq2SeqLM.from_pretrained(plain), method, tmp_path
    )
    options = {"device": "cpu", "decoder_tensor_parallel_size": 2}
    quantized, full = (describe_model(str(folder), options) for folder in (packed, dense))
    assert f"  quantised: {label}\n" in quantized
    assert "quantised" not in full
    stored = (packed / "model.safetensors").stat().st_size / 2**20
    assert f"  memory: {stored:.0f} MiB of weights; " in quantized
    # The encoder's 2 layers of 48: attention and a feed-forward layer of 80, out of float32.
    numbers = 2 * (4 * 48 * 48 + 2 * 48 * 80)
    saved = numbers * (32 - bits) / 8 / 2**20
    assert weights(full) - weights(quantized) == pytest.approx(saved, abs=0.11)


def weights(text: str) -> float:
    """MiB of the encoder's only rank."""
    found = re.search(r"encoder rank 0: .*, ([0-9.]+) MiB of weights", text)
    assert found is not None
    return float(found[1])


def test_layers_that_are_kept(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    plain = folder_of("bart")
    packed, _ = write_packed(plain, AutoModelForSeq2SeqLM.from_pretrained(plain), "awq", tmp_path)
    config = packed / "config.json"
    kept = [f"layer.{i}" for i in range(10)]
    config.write_text(
        config.read_text().replace(
            '"version": "gemm"',
            '"version": "gemm", "modules_to_not_convert": ' + str(kept).replace("'", '"'),
        )
    )
    text = describe_model(str(packed), {"device": "cpu"})
    assert "  kept in full: layer.0, layer.1, " in text
    assert "layer.7, and 2 more\n" in text
