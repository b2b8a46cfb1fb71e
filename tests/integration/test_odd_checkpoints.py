"""Checkpoints as people have them: old, pickled, half complete, converted, of other formats. Read rightly or refused by name."""

import json
import logging
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub.errors import OfflineModeIsEnabled
from plain_engine import PlainEngine
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM

from antiphon.config.errors import CheckpointError
from antiphon.config.locate import SIZES, locate
from antiphon.config.options import ModelOptions
from antiphon.families.audio_config import AudioConfig
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.processor import InputProcessor

Tensors = dict[str, torch.Tensor]
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
    return engine.run()[request.id].token_ids


@pytest.fixture(scope="module")
def usual(bart_folder: Path) -> list[int]:
    return greedy(bart_folder)


def change(folder: Path, **values: Any) -> None:
    """Changes config.json; a value of ... removes its key."""
    config = json.loads((folder / "config.json").read_text()) | values
    (folder / "config.json").write_text(
        json.dumps({key: value for key, value in config.items() if value is not ...})
    )


def rewrite(folder: Path, edit: Callable[[Tensors], Tensors | None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edited = edit(tensors)
    save_file(tensors if edited is None else edited, folder / "model.safetensors")


def pickled(folder: Path, **options: Any) -> Tensors:
    tensors = load_file(folder / "model.safetensors")
    torch.save(tensors, folder / "pytorch_model.bin", **options)
    (folder / "model.safetensors").unlink()
    return tensors


def shards(folder: Path, pattern: str, save: Callable[[Tensors, Path], None]) -> list[str]:
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    files = [pattern.format(1), pattern.format(2)]
    halves = [names[::2], names[1::2]]
    for file, half in zip(files, halves, strict=True):
        save({name: tensors[name] for name in half}, folder / file)
    index = {
        "metadata": {},
        "weight_map": {
            name: file for file, half in zip(files, halves, strict=True) for name in half
        },
    }
    own = "model.safetensors" if "safetensors" in pattern else "pytorch_model.bin"
    (folder / f"{own}.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    return files


# ---------------------------------------------------------------------- read, and read rightly


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


READ: dict[str, Callable[[Path], Any]] = {
    "no architectures": lambda folder: change(folder, architectures=...),
    "architectures null": lambda folder: change(folder, architectures=None),
    "architecture as a text": lambda folder: change(
        folder, architectures="BartForConditionalGeneration"
    ),
    "null where config.json may leave out": lambda folder: change(
        folder,
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
    "sharded": lambda folder: shards(folder, "model-0000{}-of-00002.safetensors", save_file),
    "pickled shards": lambda folder: shards(
        folder, "pytorch_model-0000{}-of-00002.bin", torch.save
    ),
    "safetensors beside a broken pickle": lambda folder: (folder / "pytorch_model.bin").write_bytes(
        b"x"
    ),
    "safetensors beside an old index": lambda folder: (
        folder / "model.safetensors.index.json"
    ).write_text("{}"),
    "tied weights stored four times": lambda folder: rewrite(folder, tied_twice),
    "marks of fairseq": lambda folder: rewrite(
        folder, lambda t: t | {"model.encoder.version": torch.ones(1)}
    ),
    "stored in double precision": lambda folder: rewrite(
        folder, lambda t: {k: v.double() for k, v in t.items()}
    ),
    "without the prefix": lambda folder: rewrite(
        folder, lambda t: {k.removeprefix("model."): v for k, v in t.items()}
    ),
}


@pytest.mark.parametrize("kind", READ)
def test_odd_checkpoints_that_are_read(
    kind: str, bart: Path, usual: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    READ[kind](bart)
    with caplog.at_level(logging.WARNING, "antiphon"):
        assert greedy(bart) == usual
    assert not caplog.records, "nothing of it is to be remarked"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_half_precision(dtype: torch.dtype, bart: Path) -> None:
    rewrite(bart, lambda tensors: {name: tensor.to(dtype) for name, tensor in tensors.items()})
    oracle = AutoModelForSeq2SeqLM.from_pretrained(bart, dtype=torch.float32)
    ids = torch.from_numpy(SOURCE.astype(np.int64))[None]
    steps = oracle.generate(ids, decoder_start_token_id=2, max_new_tokens=LENGTH, do_sample=False, num_beams=1, eos_token_id=None,
                            forced_eos_token_id=None, forced_bos_token_id=None)  # fmt: skip
    assert greedy(bart) == steps[0, 1:].tolist()


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
    """By transformers too: a fine-tune may have trained it, and a table in float16 is not the computed one."""
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
            tokens.append(
                int(
                    oracle(input_ids=ids, decoder_input_ids=torch.tensor([tokens]))
                    .logits[0, -1]
                    .argmax()
                )
            )
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


# ---------------------------------------------------------------------- refused, and in which words


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["ANTIPHON_EVIL"],)


def cut(name: str, keep: int) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:keep])


def only(**files: str) -> Callable[[Path], None]:
    """Nothing in the folder but these files; __ in a name stands for a dot."""

    def empty(folder: Path) -> None:
        for file in folder.iterdir():
            file.unlink()
        for name, content in files.items():
            (folder / name.replace("__", ".")).write_text(content)

    return empty


def unlink_shard(folder: Path) -> None:
    (folder / shards(folder, "model-0000{}-of-00002.safetensors", save_file)[1]).unlink()


def shard_lacks_a_tensor(folder: Path) -> None:
    first, second = shards(folder, "model-0000{}-of-00002.safetensors", save_file)
    shutil.copy(folder / first, folder / second)


def index_leads_outside(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "away.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        '{"weight_map": {"model.shared.weight": "../away.safetensors"}}'
    )


def pickled_then_cut(folder: Path) -> None:
    pickled(folder)
    cut("pytorch_model.bin", 5000)(folder)


def pickle_object(value: Callable[[], Any], **options: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        torch.save(value(), folder / "pytorch_model.bin", **options)

    return write


def raw_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(
        pickle.dumps({"model.shared.weight": Evil()}, protocol=2)
    )


def one_more(name: str) -> Callable[[Path], None]:
    return lambda folder: rewrite(folder, lambda tensors: tensors | {name: torch.ones(4)})


def as_integers(folder: Path) -> None:
    def edit(tensors: Tensors) -> None:
        name = "model.decoder.layers.0.fc1.weight"
        tensors[name] = tensors[name].to(torch.int8)

    rewrite(folder, edit)


def config_text(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "config.json").write_text(text)


LORA = '{"peft_type": "LORA", "base_model_name_or_path": "facebook/bart-base"}'
REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty folder": (only(), "is an empty folder: it holds no config.json"),
    "no config": (lambda folder: (folder / "config.json").unlink(), r"holds no config.json: is it a checkpoint in transformers"),
    "config is no JSON": (config_text("{"), r"cannot read .*config.json"),
    "config is a list": (config_text("[1]"), "must hold a JSON object, not a list"),
    "config is empty": (config_text(""), r"cannot read .*config.json"),
    "config nested beyond all reason": (config_text("[" * 100_000), r"cannot read .*config.json"),
    "no model type": (config_text('{"d_model": 8}'), "model_type None without architectures"),
    "unknown type": (lambda folder: change(folder, architectures=..., model_type="llama"), "model_type 'llama' without architectures"),
    "architecture as a number": (lambda folder: change(folder, architectures=5), "must be a list of names, not 5"),
    "architectures of mappings": (lambda folder: change(folder, architectures=[{}]), "must be a list of names"),
    "classifier": (lambda folder: change(folder, architectures=["BartForSequenceClassification"]), "BartForSequenceClassification"),
    "size as a text": (lambda folder: change(folder, d_model="big"), "config.json"),
    "size is null": (lambda folder: change(folder, vocab_size=None, decoder_layers=None), "has shape|lacks the tensor"),
    "generation config is no JSON": (lambda folder: (folder / "generation_config.json").write_text("?"), "generation_config.json"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "holds neither model.safetensors nor pytorch_model.bin"),
    "weights of another name": (lambda folder: (folder / "model.safetensors").rename(folder / "best.safetensors"), "Not read: best"),
    "truncated": (cut("model.safetensors", 20_000), r"cannot read .*model.safetensors"),
    "only a header": (cut("model.safetensors", 4), r"cannot read .*model.safetensors"),
    "index lacks a shard": (unlink_shard, "names files that are not there: model-00002-of-00002.safetensors"),
    "shard lacks a tensor": (shard_lacks_a_tensor, r"cannot read .* from .*model-00002"),
    "index leads outside": (index_leads_outside, "names files outside its folder"),
    "index is no JSON": (
        lambda folder: (folder / "model.safetensors").rename(folder / "model.safetensors.index.json"), "cannot read .*index.json"
    ),
    "pickle truncated": (pickled_then_cut, r"cannot read the pickled weights of .*pytorch_model.bin"),
    "pickle empty": (lambda folder: (pickled(folder), cut("pytorch_model.bin", 0)(folder)), "cannot read the pickled weights"),
    "pickle of code": (pickle_object(lambda: {"model.shared.weight": Evil()}), "Only tensors are read from such files, never code"),
    "old pickle of code": (raw_pickle, "Only tensors are read from such files, never code"),
    "pickle of no mapping": (pickle_object(lambda: [torch.ones(2)]), "holds no tensors by name"),
    "pickle of a trainer": (pickle_object(lambda: {"epoch": 3, "model": {"a": torch.ones(2)}}), "holds no tensors by name"),
    "layer too many": (one_more("model.decoder.layers.3.fc1.weight"), "layers.3.fc1.weight, a layer more than config.json says"),
    "encoder layer too many": (one_more("model.encoder.layers.2.fc1.bias"), "encoder.layers.2.fc1.bias, a layer more"),
    "one layer too few": (lambda folder: change(folder, decoder_layers=4), "lacks the tensor model.decoder.layers.3"),
    "adapter": (only(adapter_config__json=LORA, adapter_model__safetensors=""), "an adapter .LoRA. of facebook/bart-base.*merge"),
    "adapter inside": (one_more("model.decoder.layers.0.fc1.lora_A.weight"), "of an adapter .LoRA.: merge it"),
    "GPTQ by config": (lambda folder: change(folder, quantization_config={"quant_method": "gptq"}), r"quantised checkpoints \(gptq\)"),
    "GPTQ by tensors": (one_more("model.decoder.layers.0.fc1.qweight"), "qweight: quantised checkpoints are not read yet"),
    "scaled weights": (one_more("model.encoder.layers.0.fc1.weight_scale_inv"), "quantised checkpoints are not read yet"),
    "integers": (as_integers, "stored as torch.int8: quantised checkpoints"),
    "CTranslate2": (only(model__bin="", config__json="{}", vocabulary__json="", tokenizer__json=""), "CTranslate2's format"),
    "Marian in CTranslate2": (only(model__bin="", config__json="{}", shared_vocabulary__json=""), "CTranslate2's format"),
    "GGUF": (only(whisper__gguf="", README__md=""), "GGUF"),
    "whisper.cpp": (only(**{"ggml-tiny__bin": ""}), "ggml's format"),
    "OpenAI's": (only(tiny__pt=""), "openai/whisper-tiny"),
    "TensorFlow": (only(tf_model__h5="", config__json="{}"), "TensorFlow"),
    "NeMo": (only(canary__nemo=""), "NeMo"),
    "folders in place of files": (lambda folder: ((folder / "config.json").unlink(), (folder / "config.json").mkdir()), "cannot read"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_odd_checkpoints_that_are_refused(
    kind: str, bart: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = bart.parent / "evil"
    monkeypatch.setenv("ANTIPHON_EVIL", str(evil))
    spoil, message = REFUSED[kind]
    spoil(bart)
    with pytest.raises(CheckpointError, match=message):
        PlainEngine(bart)
    assert not evil.exists(), "code of a checkpoint was run"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "cannot read .*preprocessor_config.json"),
        ("{", "cannot read .*preprocessor_config.json"),
        (
            '{"hop_length": 0}',
            "hop_length of the feature extractor must be a whole number above 0, not 0",
        ),
        ('{"sampling_rate": "16k"}', "sampling_rate of the feature extractor"),
        ('{"feature_size": 128}', "makes 128 mel bins, the encoder takes 80"),
    ],
)
def test_odd_feature_settings(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        AudioConfig.load(tmp_path, 80, 400)


def test_feature_settings_that_leave_out_what_is_usual(tmp_path: Path) -> None:
    assert AudioConfig.load(tmp_path, 80, 1500) == AudioConfig()
    (tmp_path / "preprocessor_config.json").write_bytes(
        b'\xef\xbb\xbf{"hop_length": null, "n_fft": 400}'
    )
    assert AudioConfig.load(tmp_path, 80, 1500) == AudioConfig()


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


# ---------------------------------------------------------------------- names, and what is fetched


class Hub:
    """Stands for the hub: the files of one repository, and what was asked for."""

    def __init__(self, files: list[str], folder: Path) -> None:
        self.files, self.folder = files, folder
        self.asked: list[str] = []
        self.patterns: list[str] = []

    def model_info(self, model: str, **_: Any) -> SimpleNamespace:
        self.asked.append(model)
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in self.files])

    def snapshot_download(self, model: str, allow_patterns: list[str], **_: Any) -> str:
        self.asked.append(model)
        self.patterns = allow_patterns
        return str(self.folder)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    fake = Hub(["config.json", "model.safetensors"], tmp_path)
    monkeypatch.setattr(huggingface_hub, "model_info", fake.model_info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    monkeypatch.chdir(tmp_path)
    return fake


@pytest.mark.parametrize(
    ("name", "hub_id"),
    [
        ("tiny", "openai/whisper-tiny"),
        ("base.en", "openai/whisper-base.en"),
        ("large-v1", "openai/whisper-large"),
        ("large-v3", "openai/whisper-large-v3"),
        ("turbo", "openai/whisper-large-v3-turbo"),
        ("whisper-small", "openai/whisper-small"),
        ("distil-large-v3.5", "distil-whisper/distil-large-v3.5"),
        ("t5-small", "t5-small"),
        ("facebook/bart-large-cnn", "facebook/bart-large-cnn"),
        ("Helsinki-NLP/opus-mt-en-ROMANCE", "Helsinki-NLP/opus-mt-en-ROMANCE"),
    ],
)
def test_names_as_people_write_them(name: str, hub_id: str, hub: Hub) -> None:
    locate(name, None)
    assert set(hub.asked) == {hub_id}
    assert set(SIZES.values()) > {"openai/whisper-tiny", "distil-whisper/distil-small.en"}


@pytest.mark.parametrize(
    "name",
    [
        "/no/such/folder",
        "./model",
        "../model",
        "C:\\models\\tiny",
        "models\\tiny",
        "a/b/c",
        "~/nothing here",
    ],
)
def test_paths_are_not_taken_for_hub_ids(name: str, hub: Hub) -> None:
    with pytest.raises(
        CheckpointError, match=r"no such folder: .* a hub id such as .*, or a size such as large-v3"
    ):
        locate(name, None)
    assert not hub.asked


def test_a_file_is_no_folder(bart: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model.safetensors is a file: give the folder"):
        locate(str(bart / "model.safetensors"), None)


def test_a_folder_goes_before_a_size(
    tmp_path: Path, bart_folder: Path, monkeypatch: pytest.MonkeyPatch, hub: Hub
) -> None:
    shutil.copytree(bart_folder, tmp_path / "tiny")
    assert locate("tiny", None) == tmp_path / "tiny"
    assert not hub.asked


CARD = ["config.json", "generation_config.json", "tokenizer.json", "vocab.json", "merges.txt"]
FETCHED: dict[str, tuple[list[str], set[str]]] = {
    "one of many variants": (
        ["model.safetensors", "model.fp32.safetensors", "model.fp16.safetensors", "pytorch_model.bin", "tf_model.h5", "flax_model.msgpack",
         "onnx/model.onnx", "onnx/config.json", "openvino_model.bin", "README.md", ".gitattributes", "model.safetensors.index.json"],
        {"model.safetensors"},
    ),
    "shards": (
        ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json",
         "pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json", "model.fp16-00001-of-00002.safetensors"],
        {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"},
    ),
    "pickled": (["pytorch_model.bin", "training_args.bin", "optimizer.pt", "rust_model.ot"], {"pytorch_model.bin"}),
    "pickled shards": (
        ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin", "pytorch_model.bin.index.json"],
        {"pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin", "pytorch_model.bin.index.json"},
    ),
    "sentencepiece": (["model.safetensors", "source.spm", "target.spm", "spiece.model"],
                      {"model.safetensors", "source.spm", "target.spm", "spiece.model"}),
}  # fmt: skip


@pytest.mark.parametrize("kind", FETCHED)
def test_only_what_is_used_is_fetched(kind: str, hub: Hub) -> None:
    hub.files = CARD + FETCHED[kind][0]
    locate("acme/model", "v1")
    assert set(hub.patterns) == set(CARD) | FETCHED[kind][1]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([*CARD, "tf_model.h5"], "acme/model holds weights for TensorFlow"),
        (
            ["adapter_config.json", "adapter_model.safetensors"],
            r"acme/model is an adapter \(LoRA\) of its base model",
        ),
        (["whisper-tiny.gguf"], "GGUF"),
        (["config.json", "model.bin", "vocabulary.txt", "tokenizer.json"], "CTranslate2"),
        (["README.md"], "holds no config.json"),
    ],
)
def test_repositories_without_a_checkpoint_are_not_fetched(
    files: list[str], message: str, hub: Hub
) -> None:
    hub.files = files
    with pytest.raises(CheckpointError, match=message):
        locate("acme/model", None)
    assert not hub.patterns


def test_offline_what_is_in_the_cache_is_taken(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OfflineModeIsEnabled("offline")

    monkeypatch.setattr(huggingface_hub, "model_info", offline)
    locate("acme/model", None)
    assert {"*.json", "model.safetensors", "pytorch_model.bin", "pytorch_model-*-of-*.bin"} <= set(
        hub.patterns
    )


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("larg-v3", "Did you mean 'large-v3'"),
        ("gpt2", "Whisper's sizes are tiny"),
        ("acme/absent", "cannot fetch acme/absent"),
    ],
)
def test_what_cannot_be_fetched(
    name: str, hint: str, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise ValueError("404 Client Error\nmore lines")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(CheckpointError, match=hint) as caught:
        locate(name, None)
    assert "404 Client Error" in str(caught.value)
    assert "more lines" not in str(caught.value)
