"""Checkpoints that can't be read are refused by the name of what is wrong; none runs code."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from plain_engine import PlainEngine
from safetensors.torch import save_file
from spoiled_checkpoints import SAFETENSORS_SHARDS, Tensors, change, pickled, rewrite, shards

from antiphon.config.errors import CheckpointError

Spoil = Callable[[Path], Any]


@pytest.fixture
def bart(tmp_path: Path, checkpoints) -> Path:
    return shutil.copytree(checkpoints("bart")[0], tmp_path / "model")


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["ANTIPHON_EVIL"],)


def cut(name: str, keep: int) -> Spoil:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:keep])


def only(**files: str) -> Spoil:
    """Nothing in the folder but these files; __ in a name stands for a dot."""

    def empty(folder: Path) -> None:
        for file in folder.iterdir():
            file.unlink()
        for name, content in files.items():
            (folder / name.replace("__", ".")).write_text(content)

    return empty


def unlink_shard(folder: Path) -> None:
    (folder / shards(folder, SAFETENSORS_SHARDS, save_file)[1]).unlink()


def shard_lacks_a_tensor(folder: Path) -> None:
    first, second = shards(folder, SAFETENSORS_SHARDS, save_file)
    shutil.copy(folder / first, folder / second)


def index_leads_outside(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "away.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        '{"weight_map": {"model.shared.weight": "../away.safetensors"}}'
    )


def pickled_then_cut(keep: int) -> Spoil:
    def spoil(folder: Path) -> None:
        pickled(folder)
        cut("pytorch_model.bin", keep)(folder)

    return spoil


def pickle_object(value: Callable[[], Any], **options: Any) -> Spoil:
    def write(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        torch.save(value(), folder / "pytorch_model.bin", **options)

    return write


def raw_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(
        pickle.dumps({"model.shared.weight": Evil()}, protocol=2)
    )


def one_more(name: str) -> Spoil:
    return lambda folder: rewrite(folder, lambda tensors: tensors | {name: torch.ones(4)})


def as_integers(folder: Path) -> None:
    def edit(tensors: Tensors) -> None:
        name = "model.decoder.layers.0.fc1.weight"
        tensors[name] = tensors[name].to(torch.int8)

    rewrite(folder, edit)


def changed(**values: Any) -> Spoil:
    return lambda folder: change(folder, **values)


def removed(name: str) -> Spoil:
    return lambda folder: (folder / name).unlink()


def renamed(name: str, new: str) -> Spoil:
    return lambda folder: (folder / name).rename(folder / new)


def folder_as_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()


def config_text(text: str) -> Spoil:
    return lambda folder: (folder / "config.json").write_text(text)


LORA = '{"peft_type": "LORA", "base_model_name_or_path": "facebook/bart-base"}'
NO_CODE = "Only tensors are read from such files, never code"
CONFIGS: dict[str, tuple[Spoil, str]] = {
    "empty folder": (only(), "is an empty folder: it holds no config.json"),
    "no config": (
        removed("config.json"),
        r"holds no config.json: is it a checkpoint in transformers",
    ),
    "config is no JSON": (config_text("{"), r"cannot read .*config.json"),
    "config is a list": (config_text("[1]"), "must hold a JSON object, not a list"),
    "config is empty": (config_text(""), r"cannot read .*config.json"),
    "config nested too deep": (config_text("[" * 100_000), r"cannot read .*config.json"),
    "config is a folder": (folder_as_config, "cannot read"),
    "no model type": (config_text('{"d_model": 8}'), "model_type None without architectures"),
    "unknown type": (
        changed(architectures=..., model_type="gpt2"),
        "model_type 'gpt2' without architectures",
    ),
    "architecture as a number": (changed(architectures=5), "must be a list of names, not 5"),
    "architectures of mappings": (changed(architectures=[{}]), "must be a list of names"),
    "classifier": (
        changed(architectures=["BartForSequenceClassification"]),
        "BartForSequenceClassification",
    ),
    "size as a text": (changed(d_model="big"), "config.json"),
    "size is null": (
        changed(vocab_size=None, decoder_layers=None),
        "has shape|lacks the tensor",
    ),
    "generation config is no JSON": (
        lambda folder: (folder / "generation_config.json").write_text("?"),
        "generation_config.json",
    ),
}
WEIGHTS: dict[str, tuple[Spoil, str]] = {
    "no weights": (
        removed("model.safetensors"),
        "holds neither model.safetensors nor pytorch_model.bin",
    ),
    "weights of another name": (
        renamed("model.safetensors", "best.safetensors"),
        "Not read: best",
    ),
    "truncated": (cut("model.safetensors", 20_000), r"cannot read .*model.safetensors"),
    "only a header": (cut("model.safetensors", 4), r"cannot read .*model.safetensors"),
    "index lacks a shard": (
        unlink_shard,
        "names files that are not there: model-00002-of-00002.safetensors",
    ),
    "shard lacks a tensor": (shard_lacks_a_tensor, r"cannot read .* from .*model-00002"),
    "index leads outside": (index_leads_outside, "names files outside its folder"),
    "index is no JSON": (
        renamed("model.safetensors", "model.safetensors.index.json"),
        "cannot read .*index.json",
    ),
    "pickle truncated": (
        pickled_then_cut(5000),
        r"cannot read the pickled weights of .*pytorch_model.bin",
    ),
    "pickle empty": (pickled_then_cut(0), "cannot read the pickled weights"),
    "pickle of code": (pickle_object(lambda: {"model.shared.weight": Evil()}), NO_CODE),
    "old pickle of code": (raw_pickle, NO_CODE),
    "pickle of no mapping": (
        pickle_object(lambda: [torch.ones(2)]),
        "holds no tensors by name",
    ),
    "pickle of a trainer": (
        pickle_object(lambda: {"epoch": 3, "model": {"a": torch.ones(2)}}),
        "holds no tensors by name",
    ),
    "layer too many": (
        one_more("model.decoder.layers.3.fc1.weight"),
        "layers.3.fc1.weight, a layer more than config.json says",
    ),
    "encoder layer too many": (
        one_more("model.encoder.layers.2.fc1.bias"),
        "encoder.layers.2.fc1.bias, a layer more",
    ),
    "one layer too few": (
        changed(decoder_layers=4),
        "lacks the tensor model.decoder.layers.3",
    ),
}
FORMATS: dict[str, tuple[Spoil, str]] = {
    "adapter": (
        only(adapter_config__json=LORA, adapter_model__safetensors=""),
        "an adapter .LoRA. of facebook/bart-base.*merge",
    ),
    "adapter inside": (
        one_more("model.decoder.layers.0.fc1.lora_A.weight"),
        "of an adapter .LoRA.: merge it",
    ),
    "another method": (
        changed(quantization_config={"quant_method": "quip"}),
        "quantised by quip are not read; these are: .*compressed-tensors",
    ),
    "GPTQ by tensors": (
        one_more("model.decoder.layers.0.fc1.qweight"),
        "qweight, of a quantised weight that its config.json .*tells no way to read",
    ),
    "scaled weights": (
        one_more("model.encoder.layers.0.fc1.weight_scale_inv"),
        "weight_scale_inv, of a quantised weight that its config.json",
    ),
    "integers": (
        as_integers,
        "stored as torch.int8: quantised, and its config.json .*tells no way",
    ),
    "CTranslate2": (
        only(model__bin="", config__json="{}", vocabulary__json="", tokenizer__json=""),
        "CTranslate2's format .*cut off",
    ),
    "Marian in CTranslate2": (
        only(model__bin="GGUF", config__json="{}", shared_vocabulary__json=""),
        "version 1179993927 of CTranslate2's format",
    ),
    "GGUF": (only(whisper__gguf="", README__md=""), "GGUF"),
    "whisper.cpp": (only(**{"ggml-tiny__bin": ""}), "ggml's format"),
    "OpenAI's": (only(tiny__pt=""), "openai/whisper-tiny"),
    "TensorFlow": (only(tf_model__h5="", config__json="{}"), "TensorFlow"),
    "NeMo": (only(canary__nemo=""), "NeMo"),
}
REFUSED = CONFIGS | WEIGHTS | FORMATS


@pytest.mark.parametrize("kind", REFUSED)
def test_checkpoints_that_are_refused(
    kind: str, bart: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = bart.parent / "evil"
    monkeypatch.setenv("ANTIPHON_EVIL", str(evil))
    spoil, message = REFUSED[kind]
    spoil(bart)
    with pytest.raises(CheckpointError, match=message):
        PlainEngine(bart)
    assert not evil.exists(), "code of a checkpoint was run"
