"""Checkpoints as people have them: old, pickled, half complete, converted. All are read rightly."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plain_engine import PlainEngine
from safetensors.torch import save_file
from spoiled_checkpoints import (
    PICKLED_SHARDS,
    SAFETENSORS_SHARDS,
    Tensors,
    change,
    pickled,
    rewrite,
    shards,
)
from transformers import AutoModelForSeq2SeqLM

from antiphon.config.errors import CheckpointError, UnsupportedModelError
from antiphon.config.options import ModelOptions
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.processor import InputProcessor

SOURCE, LENGTH = np.array([5, 17, 42, 8, 2], np.int32), 12


@pytest.fixture(scope="module")
def bart_folder(checkpoints) -> Path:
    return checkpoints("bart")[0]


@pytest.fixture
def bart(tmp_path: Path, bart_folder: Path) -> Path:
    return shutil.copytree(bart_folder, tmp_path / "model")


def greedy(folder: Path, start: int = 2) -> list[int]:
    engine = PlainEngine(folder)
    request = engine.request(SOURCE, [start], LENGTH)
    engine.submit(request)
    return engine.run()[request.id.number].token_ids


@pytest.fixture(scope="module")
def usual(bart_folder: Path) -> list[int]:
    return greedy(bart_folder)


def with_bom(folder: Path) -> None:
    (folder / "config.json").write_bytes(b"\xef\xbb\xbf" + (folder / "config.json").read_bytes())


def through_links(folder: Path) -> None:
    away = folder.rename(folder.parent / "blobs")
    folder.mkdir()
    for file in away.iterdir():
        (folder / file.name).symlink_to(file)


def tied_twice(tensors: Tensors) -> None:
    for name in (
        "model.encoder.embed_tokens.weight",
        "model.decoder.embed_tokens.weight",
        "lm_head.weight",
    ):
        tensors[name] = tensors["model.shared.weight"].clone()


def write(name: str, content: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes(content)


def changed(**values: Any) -> Callable[[Path], Any]:
    return lambda folder: change(folder, **values)


def edited(edit: Callable[[Tensors], Tensors | None]) -> Callable[[Path], Any]:
    return lambda folder: rewrite(folder, edit)


READ: dict[str, Callable[[Path], Any]] = {
    "no architectures": changed(architectures=...),
    "architectures null": changed(architectures=None),
    "architecture as a text": changed(architectures="BartForConditionalGeneration"),
    "null where config.json may leave out": changed(
        activation_function=None,
        scale_embedding=None,
        max_position_embeddings=160,
        torch_dtype=None,
    ),
    "no generation config": lambda folder: (folder / "generation_config.json").unlink(
        missing_ok=True
    ),
    "byte order mark": with_bom,
    "symbolic links": through_links,
    "pickled": pickled,
    "pickled in the old format": lambda folder: pickled(
        folder, _use_new_zipfile_serialization=False
    ),
    "sharded": lambda folder: shards(folder, SAFETENSORS_SHARDS, save_file),
    "pickled shards": lambda folder: shards(folder, PICKLED_SHARDS, torch.save),
    "safetensors beside a broken pickle": write("pytorch_model.bin", b"x"),
    "safetensors beside an old index": write("model.safetensors.index.json", b"{}"),
    "tied weights stored four times": edited(tied_twice),
    "marks of fairseq": edited(lambda t: t | {"model.encoder.version": torch.ones(1)}),
    "stored in double precision": edited(lambda t: {k: v.double() for k, v in t.items()}),
    "without the prefix": edited(lambda t: {k.removeprefix("model."): v for k, v in t.items()}),
}


@pytest.mark.parametrize("kind", READ)
def test_odd_checkpoints_that_are_read(
    kind: str, bart: Path, usual: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    READ[kind](bart)
    with caplog.at_level(logging.WARNING, "antiphon"):
        assert greedy(bart) == usual
    assert not caplog.records, "nothing of it is worth a warning"


def transformers_tokens(folder: Path, start: int = 2) -> list[int]:
    oracle = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32)
    steps = oracle.generate(
        torch.from_numpy(SOURCE.astype(np.int64))[None],
        decoder_start_token_id=start,
        max_new_tokens=LENGTH,
        do_sample=False,
        num_beams=1,
        eos_token_id=None,
        forced_eos_token_id=None,
        forced_bos_token_id=None,
    )
    tokens: list[int] = steps[0, 1:].tolist()
    return tokens


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_half_precision(dtype: torch.dtype, bart: Path) -> None:
    rewrite(bart, lambda tensors: {name: tensor.to(dtype) for name, tensor in tensors.items()})
    assert greedy(bart) == transformers_tokens(bart)


def test_a_head_with_numbers_of_its_own_is_not_tied(
    bart: Path, usual: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    rewrite(bart, lambda t: t | {"lm_head.weight": t["model.shared.weight"].flip(0).contiguous()})
    with caplog.at_level(logging.WARNING, "antiphon"):
        tokens = greedy(bart)
    assert tokens == transformers_tokens(bart) != usual
    assert "lm_head.weight and model.shared.weight differ: they are not tied" in caplog.text


def test_packed_numbers_are_called_so_whatever_their_shape(bart: Path) -> None:
    name = "model.decoder.layers.0.fc1.weight"
    rewrite(bart, lambda tensors: tensors | {name: torch.zeros(72, 24, dtype=torch.uint8)})
    with pytest.raises(UnsupportedModelError, match=r"stored as torch\.uint8: quantised"):
        greedy(bart)


def test_other_tensors_are_named_once(
    bart: Path, usual: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    rewrite(
        bart,
        lambda tensors: (
            tensors
            | {"classification_head.dense.weight": torch.ones(3, 3), "ctc.bias": torch.ones(2)}
        ),
    )
    with caplog.at_level(logging.WARNING, "antiphon"):
        assert greedy(bart) == usual
    (record,) = caplog.records
    assert (
        "2 tensors are not used by its decoder: classification_head.dense.weight, ctc.bias"
        in record.getMessage()
    )


@pytest.mark.parametrize("family", ["pegasus", "marian"])
def test_a_stored_table_of_positions_is_used(family: str, tmp_path: Path, checkpoints) -> None:
    """As by transformers: a fine-tune may have trained it, and float16 rounds the computed one."""
    folder = shutil.copytree(checkpoints(family)[0], tmp_path / "model")
    computed = greedy(folder)

    def trained(tensors: Tensors) -> None:
        torch.manual_seed(1)
        for half in ("encoder", "decoder"):
            tensors[f"model.{half}.embed_positions.weight"] = 4 * torch.randn(160, 48)

    rewrite(folder, trained)
    oracle = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids, tokens = torch.from_numpy(SOURCE.astype(np.int64))[None], [2]
    for _ in range(LENGTH):
        with torch.no_grad():
            outputs = oracle(input_ids=ids, decoder_input_ids=torch.tensor([tokens]))
        tokens.append(int(outputs.logits[0, -1].argmax()))
    assert greedy(folder) == tokens[1:]
    assert computed != tokens[1:]


def test_m2m100_computes_its_table_whatever_is_stored(
    tmp_path: Path, checkpoints, caplog: pytest.LogCaptureFixture
) -> None:
    folder = shutil.copytree(checkpoints("m2m100")[0], tmp_path / "model")
    before = greedy(folder)
    rewrite(
        folder,
        lambda tensors: tensors | {"model.encoder.embed_positions.weights": torch.randn(162, 48)},
    )
    assert greedy(folder) == before
    assert not caplog.records


def test_t5_s_bias_of_cross_attention_is_not_needed(
    tmp_path: Path, checkpoints, caplog: pytest.LogCaptureFixture
) -> None:
    folder = shutil.copytree(checkpoints("t5")[0], tmp_path / "model")
    before = greedy(folder, start=0)
    name = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    rewrite(folder, lambda tensors: tensors | {name: torch.randn(8, 3)})
    assert greedy(folder, start=0) == before
    assert not caplog.records


@pytest.mark.parametrize(
    "stated",
    [{"feed_forward_proj": ...}, {"dense_act_fn": "relu"}, {"dense_act_fn": "gelu"}],
    ids=str,
)
def test_t5_s_activation_by_the_names_that_transformers_saves(
    stated: dict[str, Any], tmp_path: Path, checkpoints
) -> None:
    """`is_gated_act` and `dense_act_fn` go before `feed_forward_proj`."""
    folder = shutil.copytree(checkpoints("t5_gated_untied")[0], tmp_path / "model")
    change(folder, **stated)
    assert greedy(folder, start=0) == transformers_tokens(folder, start=0)


def test_a_vocabulary_bigger_than_the_tokenizer_s_and_a_wrong_tokenizer(
    tmp_path: Path, t5_folder: Path
) -> None:
    folder = shutil.copytree(t5_folder, tmp_path / "model")
    change(folder, vocab_size=128)  # padded, as T5's own: 32128 for 32100
    inputs = InputProcessor(ModelConfig.load(ModelOptions(str(folder))))
    assert max(inputs.tokenizer("in words: 42").input_ids) < 77
    assert inputs.decode([100, 127]) == ""
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(CheckpointError, match="cannot load the tokenizer"):
        InputProcessor(ModelConfig.load(ModelOptions(str(folder))))
