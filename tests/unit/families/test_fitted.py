"""Stages of a decoder have layers by their cost, unless the user says how many."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.config.options import resolve
from antiphon.families.checkpoint import ModelConfig
from antiphon.families.fitted import balanced_layers, fitted

QWEN_7B = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
}
LARGE_V3 = {
    "architectures": ["WhisperForConditionalGeneration"],
    "model_type": "whisper",
    "d_model": 1280,
    "decoder_attention_heads": 20,
    "decoder_ffn_dim": 5120,
    "decoder_layers": 32,
    "encoder_attention_heads": 20,
    "encoder_ffn_dim": 5120,
    "encoder_layers": 32,
    "num_mel_bins": 128,
    "vocab_size": 51866,
}


def layers(folder: Path, raw: dict[str, Any], **options: Any) -> str | None:
    folder.joinpath("config.json").write_text(json.dumps(raw))
    config = resolve(str(folder), {"device": "cpu", **options}, {})
    return fitted(ModelConfig.load(config.model), config).decoder.pipeline_layers


@given(st.integers(2, 4), st.integers(0, 5), st.floats(0, 6))
def test_no_other_split_has_a_faster_slowest_stage(stages: int, more: int, head: float) -> None:
    total = stages + more

    def slowest(counts: tuple[int, ...]) -> float:
        return max(*counts[:-1], counts[-1] + head)

    counts = balanced_layers(total, stages, head)
    assert sum(counts) == total
    assert len(counts) == stages
    splits = itertools.product(range(1, total + 1), repeat=stages)
    assert slowest(counts) == min(slowest(split) for split in splits if sum(split) == total)


def test_a_large_vocabulary_takes_layers_from_the_last_stage(tmp_path: Path) -> None:
    """Its head is as much as 2.3 layers."""
    assert layers(tmp_path, QWEN_7B, decoder_pipeline_parallel_size=2) == "15,13"
    assert layers(tmp_path, QWEN_7B, decoder_pipeline_parallel_size=4) == "8,8,8,4"


def test_where_layers_read_much_for_each_sequence_the_head_counts_little(tmp_path: Path) -> None:
    """Of a clip, each layer reads 7.7 MB; with one sequence to a stage the head is 2.2 layers."""
    two = {"decoder_pipeline_parallel_size": 2}
    assert layers(tmp_path, LARGE_V3, **two) == "16,16"
    assert layers(tmp_path, LARGE_V3, **two, max_num_seqs=2) == "17,15"


def test_what_is_given_stays(tmp_path: Path) -> None:
    two = {"decoder_pipeline_parallel_size": 2, "decoder_pipeline_layers": "20,8"}
    assert layers(tmp_path, QWEN_7B, **two) == "20,8"
    assert layers(tmp_path, QWEN_7B) is None


@pytest.mark.parametrize("stages", [28, 29])
def test_as_many_stages_as_layers(stages: int, tmp_path: Path) -> None:
    """More are refused where ranks are checked."""
    expected = ",".join(["1"] * 28) if stages == 28 else None
    assert layers(tmp_path, QWEN_7B, decoder_pipeline_parallel_size=stages) == expected
