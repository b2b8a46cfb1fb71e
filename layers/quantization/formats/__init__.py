"""Readers of quantised weights out of checkpoints' tensors: one for each layout.

A method is added by a reader of its settings (`families/quantization/reading.py`) and a format
here.
"""

from collections.abc import Mapping

from antiphon.families.quantization.scheme import StoredQuantization
from antiphon.layers.quantization.formats.awq import AWQ
from antiphon.layers.quantization.formats.bitsandbytes import BitsAndBytes
from antiphon.layers.quantization.formats.compressed_tensors import CompressedTensors
from antiphon.layers.quantization.formats.fp8 import FP8
from antiphon.layers.quantization.formats.gptq import GPTQ
from antiphon.layers.quantization.formats.interface import Format
from antiphon.layers.quantization.formats.torchao import TorchAO

FORMATS: Mapping[str, type[Format]] = {
    "compressed-tensors": CompressedTensors,
    "fp8": FP8,
    "fbgemm_fp8": FP8,
    "gptq": GPTQ,
    "awq": AWQ,
    "bitsandbytes": BitsAndBytes,
    "torchao": TorchAO,
}


def format_of(quantization: StoredQuantization) -> Format:
    return FORMATS[quantization.method](quantization)
