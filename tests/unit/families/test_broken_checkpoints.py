"""Broken checkpoints: refused by the name of the file, tensor or setting that is wrong."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from plain_engine import PlainEngine
from safetensors.torch import load_file, save_file

from antiphon.config.errors import CheckpointError, ConfigurationError, UnsupportedModelError
from antiphon.config.options import ModelOptions, resolve
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.processor import InputProcessor


@pytest.fixture
def bart_copy(tmp_path: Path, checkpoints) -> Path:
    return shutil.copytree(checkpoints("bart")[0], tmp_path / "copy")


def change(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def test_missing_folders_and_configs(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        ModelConfig.load(ModelOptions("/no/such/folder"))
    with pytest.raises(CheckpointError, match=r"holds no config.json"):
        ModelConfig.load(ModelOptions(str(tmp_path)))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot read"):
        ModelConfig.load(ModelOptions(str(tmp_path)))


@pytest.mark.parametrize("value", [None, [], -1])
def test_a_checkpoint_without_a_start_token_is_refused_at_start(
    value: Any, t5_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(t5_folder, tmp_path / "t5")
    settings = {"decoder_start_token_id": value, "bos_token_id": None}
    for file in ("config.json", "generation_config.json"):
        stated = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**stated, **settings}))
    model = ModelConfig.load(ModelOptions(str(folder)))
    with pytest.raises(CheckpointError, match="neither decoder_start_token_id nor bos_token_id"):
        InputProcessor(model)


def test_unknown_architectures_are_refused_by_name(bart_copy: Path) -> None:
    change(bart_copy, architectures=["MambaForCausalLM"])
    with pytest.raises(
        UnsupportedModelError,
        match=r"MambaForCausalLM .* Supported: BartForConditionalGeneration.*WhisperFor",
    ):
        ModelConfig.load(ModelOptions(str(bart_copy)))


@pytest.mark.parametrize(
    "name",
    [
        "model.decoder.layers.1.fc1.weight",
        "model.encoder.layers.0.self_attn.k_proj.bias",
        "model.shared.weight",
    ],
)
def test_a_missing_tensor_is_named(bart_copy: Path, name: str) -> None:
    tensors = load_file(bart_copy / "model.safetensors")
    del tensors[name]
    save_file(tensors, bart_copy / "model.safetensors")
    with pytest.raises(
        CheckpointError,
        match=f"lacks the tensor {re.escape(name.replace('shared', 'encoder.embed_tokens'))}",
    ):
        PlainEngine(bart_copy)


def test_a_wrong_shape_is_named_with_both_shapes(bart_copy: Path) -> None:
    tensors = load_file(bart_copy / "model.safetensors")
    tensors["model.encoder.layers.0.self_attn.v_proj.weight"] = torch.zeros(48, 47)
    save_file(tensors, bart_copy / "model.safetensors")
    with pytest.raises(
        CheckpointError,
        match=r"self_attn.v_proj.weight .* has shape \[48, 47\]; config.json asks for \[48, 48\]",
    ):
        PlainEngine(bart_copy)


def test_broken_and_missing_weight_files(bart_copy: Path) -> None:
    (bart_copy / "model.safetensors").write_bytes(b"not a safetensors file")
    with pytest.raises(CheckpointError, match="cannot read"):
        PlainEngine(bart_copy)
    (bart_copy / "model.safetensors").unlink()
    (bart_copy / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="cannot read the pickled weights"):
        PlainEngine(bart_copy)


def test_heads_that_do_not_divide_are_refused(bart_copy: Path) -> None:
    change(bart_copy, decoder_attention_heads=5)
    with pytest.raises(CheckpointError, match=r"not a multiple of its 5 heads|not valid"):
        PlainEngine(bart_copy)


def test_sharded_checkpoints_load(tmp_path: Path) -> None:
    model = tiny_models.make("bart", tmp_path, max_shard_size="60KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    engine = PlainEngine(tmp_path)
    torch.testing.assert_close(engine.replica.runner.model.lm_head.weight, model.lm_head.weight)
    next(tmp_path.glob("model-00002*.safetensors")).unlink()
    with pytest.raises(CheckpointError, match="names files that are not there: model-00002"):
        PlainEngine(tmp_path)


def test_each_half_loads_only_its_own_weights(checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    from antiphon.layers.checkpoint import Checkpoint

    read: list[str] = []
    original = Checkpoint.read
    monkeypatch.setattr(
        Checkpoint,
        "read",
        lambda self, name, shape: read.append(name) or original(self, name, shape),
    )
    config = resolve(str(checkpoints("bart")[0]), {})
    from antiphon.encoder.runner import EncoderRunner

    EncoderRunner(ModelConfig.load(config.model), config)
    assert read
    assert not [name for name in read if ".decoder." in name]


def test_more_positions_than_the_model_has_are_refused(bart_copy: Path) -> None:
    with pytest.raises(CheckpointError, match="max_model_len=1000 is more than the 160 positions"):
        PlainEngine(bart_copy, max_model_len=1000)


def test_a_cache_too_small_for_one_sequence_is_refused(bart_copy: Path) -> None:
    with pytest.raises(ConfigurationError, match="one full sequence needs 20"):
        PlainEngine(bart_copy, kv_cache_memory_gib=0.0001)
