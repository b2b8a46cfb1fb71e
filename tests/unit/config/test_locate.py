"""Where checkpoints are: names as people write them, and which files of the hub are fetched."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import huggingface_hub
import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from antiphon.config.errors import CheckpointError
from antiphon.config.locate import SIZES, locate


@pytest.fixture(scope="module")
def bart_folder(checkpoints) -> Path:
    return checkpoints("bart")[0]


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


def raising(error: Exception) -> Callable[..., Any]:
    def call(*_: Any, **__: Any) -> None:
        raise error

    return call


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


def test_a_file_is_no_folder(bart_folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model.safetensors is a file: give the folder"):
        locate(str(bart_folder / "model.safetensors"), None)


def test_a_folder_goes_before_a_size(
    tmp_path: Path, bart_folder: Path, monkeypatch: pytest.MonkeyPatch, hub: Hub
) -> None:
    shutil.copytree(bart_folder, tmp_path / "tiny")
    assert locate("tiny", None) == tmp_path / "tiny"
    assert not hub.asked


CARD = ["config.json", "generation_config.json", "tokenizer.json", "vocab.json", "merges.txt"]
SHARDS = [
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
]
PICKLED_SHARDS = [
    "pytorch_model-00001-of-00002.bin",
    "pytorch_model-00002-of-00002.bin",
    "pytorch_model.bin.index.json",
]
SENTENCEPIECE = ["model.safetensors", "source.spm", "target.spm", "spiece.model"]
FETCHED: dict[str, tuple[list[str], list[str]]] = {  # a repository's files, and those fetched
    "one of many variants": (
        [
            "model.safetensors",
            "model.fp32.safetensors",
            "model.fp16.safetensors",
            "pytorch_model.bin",
            "tf_model.h5",
            "flax_model.msgpack",
            "onnx/model.onnx",
            "onnx/config.json",
            "openvino_model.bin",
            "README.md",
            ".gitattributes",
            "model.safetensors.index.json",
        ],
        ["model.safetensors"],
    ),
    "shards": ([*SHARDS, *PICKLED_SHARDS, "model.fp16-00001-of-00002.safetensors"], SHARDS),
    "pickled": (
        ["pytorch_model.bin", "training_args.bin", "optimizer.pt", "rust_model.ot"],
        ["pytorch_model.bin"],
    ),
    "pickled shards": (PICKLED_SHARDS, PICKLED_SHARDS),
    "sentencepiece": (SENTENCEPIECE, SENTENCEPIECE),
    "CTranslate2": (["model.bin", "vocabulary.txt"], ["model.bin", "vocabulary.txt"]),
    "CTranslate2 beside": (["model.safetensors", "model.bin"], ["model.safetensors"]),
}


@pytest.mark.parametrize("kind", FETCHED)
def test_only_what_is_used_is_fetched(kind: str, hub: Hub) -> None:
    hub.files = CARD + FETCHED[kind][0]
    locate("acme/model", "v1")
    assert set(hub.patterns) == {*CARD, *FETCHED[kind][1]}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([*CARD, "tf_model.h5"], "acme/model holds weights for TensorFlow"),
        (
            ["adapter_config.json", "adapter_model.safetensors"],
            r"acme/model is an adapter \(LoRA\) of its base model",
        ),
        (["whisper-tiny.gguf"], "GGUF"),
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
    offline = raising(OfflineModeIsEnabled("offline"))
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
    error = ValueError("404 Client Error\nmore lines")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", raising(error))
    with pytest.raises(CheckpointError, match=hint) as caught:
        locate(name, None)
    assert "404 Client Error" in str(caught.value)
    assert "more lines" not in str(caught.value)


def not_found(kind: type[Exception]) -> Exception:
    response = httpx.Response(404, request=httpx.Request("GET", "https://huggingface.co/x"))
    return kind("404 Client Error (Request ID: x)", response=response)  # type: ignore[call-arg]


OFFLINE = LocalEntryNotFoundError("Cannot find an appropriate cached snapshot folder")
UNREACHABLE = LocalEntryNotFoundError("Got: ConnectError: [Errno 111] Connection refused")


@pytest.mark.parametrize("is_offline", [True, False])
@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("openai/whsper-tiny", "openai/whisper-tiny"),
        ("whsper-tiny", "whisper-tiny"),
        ("acme/my-modle", "acme/my-model"),  # in the cache
        ("openai/whisper-tiny", None),  # rightly written, and not here
        ("acme/absent", None),
    ],
)
def test_a_name_that_is_not_here_and_cannot_be_fetched(
    name: str, meant: str | None, is_offline: bool, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = OFFLINE if is_offline else UNREACHABLE
    (hub.folder / "models--acme--my-model").mkdir()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(hub.folder))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", is_offline)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", raising(error))
    with pytest.raises(CheckpointError) as caught:
        locate(name, None)
    remedy = "unset HF_HUB_OFFLINE" if is_offline else "cannot be reached: check the network"
    said = str(caught.value)
    assert said.startswith(f"{name} is not in the hub's cache ({hub.folder}), and ")
    assert f"{remedy}, or give the folder of a checkpoint." in said
    assert ("Did you mean" in said) == (meant is not None)
    assert meant is None or said.endswith(f"Did you mean '{meant}'?")
    assert "Connect" not in said
    assert "snapshot" not in said
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    ("kind", "revision", "message"),
    [
        (RepositoryNotFoundError, None, "the hub has no model openai/whsper-tiny, or a private"),
        (GatedRepoError, None, "is only for those who were let in: ask for it at https://"),
        (RevisionNotFoundError, "v9", "openai/whsper-tiny has no revision v9 on the hub"),
    ],
)
def test_what_the_hub_answers(
    kind: type[Exception],
    revision: str | None,
    message: str,
    hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(huggingface_hub, "model_info", raising(not_found(kind)))
    with pytest.raises(CheckpointError, match=message) as caught:
        locate("openai/whsper-tiny", revision)
    assert str(caught.value).endswith("Did you mean 'openai/whisper-tiny'?")
    assert "404" not in str(caught.value)
