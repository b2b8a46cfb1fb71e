"""Weights as GPTQ, AWQ, bitsandbytes and torchao store them: written number by number, from the
formats' definitions, and what they stand for.

Codes and scales are drawn around a given weight: how well they approximate it does not matter.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

GROUP = 8
# NF4's levels (Dettmers et al. 2023, appendix E) and FP4's, as bitsandbytes has them.
NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
]  # fmt: skip
HALF_FP4 = [0.0, 0.0052083333, 0.6666667, 1.0, 0.3333333, 0.5, 0.1666667, 0.25]
FP4 = [*HALF_FP4, *(-level for level in HALF_FP4)]


@dataclass
class Written:
    """`tensors` by what follows a layer's name; `weight` [out, in] is what they stand for."""

    tensors: dict[str, torch.Tensor]
    weight: torch.Tensor


Writer = Callable[[torch.Tensor], Written]


def _words(codes: np.ndarray, bits: int, places: list[int] | None = None) -> np.ndarray:
    """Codes [n, m] -> words [n / codes of a word, m] uint32. `places`: where in a word each of its
    codes lies."""
    per_word = 32 // bits
    words = np.zeros((-(-len(codes) // per_word), codes.shape[1]), np.uint32)
    for i, row in enumerate(codes):
        place = i % per_word if places is None else places[i % per_word]
        words[i // per_word] |= row.astype(np.uint32) << np.uint32(place * bits)
    return words


def _int32(words: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(words).view(np.int32).copy())


def _quantized(
    weight: torch.Tensor, group_of: np.ndarray, bits: int, symmetric: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, torch.Tensor]:
    """Codes [in, out], zeros and scales [groups, out], and what they stand for [out, in]."""
    numbers, most = weight.T.double().numpy(), 2**bits - 1
    groups = int(group_of.max()) + 1
    zeros = np.full((groups, weight.shape[0]), 2 ** (bits - 1))
    scales = np.ones((groups, weight.shape[0]))
    for group in range(groups):
        own = numbers[group_of == group]
        low, high = np.minimum(own.min(0), 0), np.maximum(own.max(0), 0)
        if symmetric:
            scales[group] = np.maximum(np.abs(own).max(0), 1e-6) / (most // 2)
        else:
            scales[group] = np.maximum(high - low, 1e-6) / most
            zeros[group] = np.clip(np.rint(-low / scales[group]), 0, most)
    scales = scales.astype(np.float16)
    by_input, zero = scales[group_of].astype(np.float64), zeros[group_of]
    codes = np.clip(np.rint(numbers / by_input) + zero, 0, most).astype(np.int64)
    return codes, zeros, scales, torch.from_numpy(((codes - zero) * by_input).T).float()


def gptq(
    bits: int = 4,
    act_order: bool = False,
    symmetric: bool = False,
    first_version: bool = True,
    group: int = GROUP,
) -> Writer:
    def write(weight: torch.Tensor) -> Written:
        inputs = weight.shape[1]
        group_of = np.arange(inputs) // group
        if act_order:
            group_of = np.random.default_rng(0).permutation(group_of)
        codes, zeros, scales, dense = _quantized(weight, group_of, bits, symmetric)
        stored = (zeros - first_version) % 2**bits
        tensors = {
            "qweight": _int32(_words(codes, bits)),
            "qzeros": _int32(_words(stored.T, bits).T),
            "scales": torch.from_numpy(scales),
            "g_idx": torch.from_numpy(group_of.astype(np.int32)),
        }
        return Written(tensors, dense)

    return write


def awq(weight: torch.Tensor, group: int = GROUP) -> Written:
    group_of = np.arange(weight.shape[1]) // group
    codes, zeros, scales, dense = _quantized(weight, group_of, 4, symmetric=False)
    places = [0, 4, 1, 5, 2, 6, 3, 7]
    tensors = {
        "qweight": _int32(_words(codes.T, 4, places).T),
        "qzeros": _int32(_words(zeros.T, 4, places).T),
        "scales": torch.from_numpy(scales),
    }
    return Written(tensors, dense)


def four_bits(kind: str, twice: bool, block: int = 64) -> Writer:
    levels = torch.tensor(NF4 if kind == "nf4" else FP4)

    def write(weight: torch.Tensor) -> Written:
        flat = weight.flatten()
        blocks = torch.arange(len(flat)) // block
        factors = torch.stack([own.abs().max() for own in flat.split(block)])
        state: dict[str, Any] = {
            "quant_type": kind, "blocksize": block, "dtype": "float32", "shape": list(weight.shape),
        }  # fmt: skip
        tensors = {"weight.quant_map": levels, "weight.absmax": factors}
        if twice:
            outer, steps = torch.tensor([float((factors - factors.mean()).abs().max())]), 256
            table = torch.linspace(-1, 1, steps)
            numbers = (((factors - factors.mean()) / outer + 1) / 2 * (steps - 1)).round()
            tensors["weight.absmax"] = numbers.to(torch.uint8)
            tensors["weight.nested_absmax"] = outer.repeat(-(-len(factors) // steps))
            tensors["weight.nested_quant_map"] = table
            state |= {"nested_blocksize": steps, "nested_dtype": "float32"}
            state["nested_offset"] = float(factors.mean())
            factors = table[numbers.long()] * outer + state["nested_offset"]
        by_number = factors[blocks]
        codes = (flat / by_number)[:, None].sub(levels).abs().argmin(1)
        tensors["weight"] = (codes[::2] << 4 | codes[1::2]).to(torch.uint8)[:, None]
        text = json.dumps(state).encode()
        tensors[f"weight.quant_state.bitsandbytes__{kind}"] = torch.tensor(list(text)).byte()
        return Written(tensors, (levels[codes] * by_number).view(weight.shape))

    return write


def llm_int8(weight: torch.Tensor) -> Written:
    largest = weight.abs().amax(1)
    values = (weight / largest[:, None] * 127).round().to(torch.int8)
    tensors = {"weight": values, "SCB": largest, "weight_format": torch.tensor(0).byte()}
    return Written(tensors, values * largest[:, None] / 127)


def torchao_int8(weight: torch.Tensor) -> Written:
    scales = weight.abs().amax(1, keepdim=True) / 127
    values = (weight / scales).round().to(torch.int8)
    zeros = torch.zeros_like(scales, dtype=torch.int8)
    tensors = {"qdata": values, "scale": scales, "zero_point": zeros}
    return Written({f"_weight_{key}": value for key, value in tensors.items()}, values * scales)


def torchao_intx(weight: torch.Tensor, group: int = GROUP) -> Written:
    """Four-bit numbers from -8, a byte each, with zeros."""
    group_of = np.arange(weight.shape[1]) // group
    codes, zeros, scales, dense = _quantized(weight, group_of, 4, symmetric=False)
    tensors = {
        "qdata": torch.from_numpy(codes.T - 8).to(torch.int8),
        "scale": torch.from_numpy(scales.T).float().contiguous(),
        "zero_point": torch.from_numpy(zeros.T - 8).to(torch.int8).contiguous(),
    }
    return Written({f"_weight_{key}": value for key, value in tensors.items()}, dense)


def torchao_int4(weight: torch.Tensor, group: int = GROUP) -> Written:
    """q in -8 to 7 stands for `q * scale + zero`."""
    group_of = np.arange(weight.shape[1]) // group
    codes, zeros, scales, dense = _quantized(weight, group_of, 4, symmetric=False)
    signed = codes.T - 8
    shifts = (8 - zeros) * scales.astype(np.float64)
    tensors = {
        "qdata": torch.from_numpy((signed[:, ::2] & 15) | (signed[:, 1::2] & 15) << 4).byte(),
        "scale": torch.from_numpy(scales).float(),
        "zero_point": torch.from_numpy(shifts).float(),
    }
    return Written({f"_weight_{key}": value for key, value in tensors.items()}, dense)


def torchao_float8(weight: torch.Tensor) -> Written:
    scales = weight.abs().amax(1, keepdim=True) / 448
    values = (weight / scales).to(torch.float8_e4m3fn)
    return Written({"_weight_qdata": values, "_weight_scale": scales}, values.float() * scales)


def _torchao(name: str, **arguments: Any) -> dict[str, Any]:
    config = {"_type": name, "_version": 2, "_data": arguments}
    return {"quant_method": "torchao", "quant_type": {"default": config}}


def methods(group: int) -> dict[str, tuple[dict[str, Any], Writer]]:
    """quantization_config and writer of each method; `group`: inputs that share a scale."""
    of_gptq = {"quant_method": "gptq", "group_size": group}
    of_awq = {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm"}
    nf4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    groups = {"_type": "PerGroup", "_version": 1, "_data": {"group_size": group}}
    int4 = {"_type": "torch.dtype", "_data": "int4"}
    return {
        "gptq": ({**of_gptq, "bits": 4, "sym": False}, gptq(group=group)),
        "gptq_act_order": (
            {**of_gptq, "bits": 4, "desc_act": True},
            gptq(act_order=True, group=group),
        ),
        "gptq_8_bits": (
            {**of_gptq, "bits": 8, "sym": True},
            gptq(bits=8, symmetric=True, group=group),
        ),
        "gptq_v2": (
            {**of_gptq, "bits": 4, "checkpoint_format": "gptq_v2"},
            gptq(first_version=False, group=group),
        ),
        "awq": (of_awq, partial(awq, group=group)),
        "nf4": (nf4, four_bits("nf4", twice=False)),
        "nf4_twice": ({**nf4, "bnb_4bit_use_double_quant": True}, four_bits("nf4", twice=True)),
        "fp4": ({**nf4, "bnb_4bit_quant_type": "fp4"}, four_bits("fp4", twice=False)),
        "llm_int8": ({"quant_method": "bitsandbytes", "load_in_8bit": True}, llm_int8),
        "torchao_int8": (_torchao("Int8WeightOnlyConfig"), torchao_int8),
        "torchao_intx": (
            _torchao("IntxWeightOnlyConfig", weight_dtype=int4, granularity=groups),
            partial(torchao_intx, group=group),
        ),
        "torchao_int4": (
            _torchao("Int4WeightOnlyConfig", group_size=group),
            partial(torchao_int4, group=group),
        ),
        "torchao_float8": (_torchao("Float8WeightOnlyConfig"), torchao_float8),
    }


METHODS = methods(GROUP)
