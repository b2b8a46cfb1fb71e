"""Checkpoints of GPTQ, AWQ, bitsandbytes and torchao give what the numbers they stand for give."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packed_checkpoints import write_packed
from packed_writers import METHODS
from plain_engine import PlainEngine
from rank_scenarios import OPTIONS, PAGES, check_same_ends, play
from ranked_engine import RankedEngine
from tiny_decoders import DECODERS
from tiny_models import FAMILIES
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    WhisperForConditionalGeneration,
)

from antiphon.config.parallel import Parallel
from antiphon.layers.linear import Linear

# Layers give the same numbers but for their last bits; these models multiply such a difference by
# some thousands, and a CPU with AVX-512 adds in another order than one without.
TOLERANCE = 5e-3
Folders = tuple[Path, Path]  # as it is stored, and in full
QUICK = [
    *(("bart", method) for method in ("awq", "nf4", "torchao_int4")),
    ("llama", "gptq_act_order"),
    ("t5_gated_untied", "llm_int8"),
    ("whisper", "gptq_8_bits"),
]
OTHERS = [
    (family, method)
    for family in (*FAMILIES, *DECODERS)
    for method in METHODS
    if (family, method) not in QUICK
]
CASES = [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in OTHERS)]


def kind_of(family: str) -> str:
    if family in DECODERS:
        return "decoder"
    return "audio" if family == "whisper" else "text"


def options(family: str) -> dict[str, Any]:
    return {**OPTIONS, "num_kv_pages": PAGES[kind_of(family)]}


@pytest.fixture
def folders(folder_of: Callable[[str], Path], tmp_path: Path) -> Callable[[str, str], Folders]:
    def get(family: str, method: str) -> Folders:
        plain = folder_of(family)
        auto = {"decoder": AutoModelForCausalLM, "audio": WhisperForConditionalGeneration}
        model = auto.get(kind_of(family), AutoModelForSeq2SeqLM).from_pretrained(plain)
        return write_packed(plain, model, method, tmp_path)

    return get


@pytest.mark.parametrize(("family", "method"), CASES)
def test_tokens_are_those_of_the_same_numbers_in_full(
    family: str, method: str, folders: Callable[[str, str], Folders]
) -> None:
    packed, dense = folders(family, method)
    engine = PlainEngine(packed, **options(family))
    layers = [m for m in engine.replica.runner.model.layers.modules() if isinstance(m, Linear)]
    assert any(layer.quantized is not None or layer.weight_scale is not None for layer in layers)
    expected = play(PlainEngine(dense, **options(family)), kind_of(family))
    check_same_ends(play(engine, kind_of(family)), expected, TOLERANCE)


@pytest.mark.parametrize(
    ("family", "method"),
    [
        ("bart", "gptq_act_order"),
        pytest.param("llama", "awq", marks=pytest.mark.slow),
        pytest.param("t5", "nf4", marks=pytest.mark.slow),
    ],
)
def test_two_ranks_share_what_is_stored(
    family: str, method: str, folders: Callable[[str, str], Folders]
) -> None:
    packed, dense = folders(family, method)
    expected = play(PlainEngine(dense, **options(family)), kind_of(family))
    with RankedEngine(packed, Parallel(2), **options(family)) as engine:
        check_same_ends(play(engine, kind_of(family)), expected, TOLERANCE)
