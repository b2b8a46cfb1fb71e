"""Published Whisper weights, from CTranslate2's format to a transformers folder.

`model.bin` is little-endian (CTranslate2's `python/ctranslate2/specs/model_spec.py`): version, name,
revision, the number of variables; then for each its name, rank, dimensions, type, size in bytes and
data. Query, key and value projections of self-attention are one matrix, as are the key and value
projections of cross-attention.
"""

import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperTokenizer

DTYPES: dict[int, Any] = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
LEAF = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}  # theirs: ours
# Sublayers of a block, by half: their name, and ours with the projections that theirs stacks.
ENCODER_BLOCK: dict[str, tuple[str, tuple[str, ...]]] = {
    "self_attention/layer_norm": ("self_attn_layer_norm", ()),
    "self_attention/linear_0": ("self_attn", ("q_proj", "k_proj", "v_proj")),
    "self_attention/linear_1": ("self_attn.out_proj", ()),
    "ffn/layer_norm": ("final_layer_norm", ()),
    "ffn/linear_0": ("fc1", ()),
    "ffn/linear_1": ("fc2", ()),
}
DECODER_BLOCK: dict[str, tuple[str, tuple[str, ...]]] = {
    **ENCODER_BLOCK,
    "attention/layer_norm": ("encoder_attn_layer_norm", ()),
    "attention/linear_0": ("encoder_attn.q_proj", ()),
    "attention/linear_1": ("encoder_attn", ("k_proj", "v_proj")),
    "attention/linear_2": ("encoder_attn.out_proj", ()),
}
BLOCKS = {"encoder": ENCODER_BLOCK, "decoder": DECODER_BLOCK}
# Variables that say how the model is built, or that hold what transformers ties or computes.
HEAD_SIZE, MAX_LENGTH, FIRST_TIMESTAMP_LIMIT = 64, 448, 50


class FormatError(Exception):
    """The file is not what this reader knows."""


def read_variables(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Names and arrays of `model.bin`. Raises FormatError."""
    with path.open("rb") as file:
        (version,) = _unpack(file, "I")
        if version < 6:
            raise FormatError(f"{path}: version {version} of the format; 6 and later are known")
        name = _string(file)
        if name != "WhisperSpec":
            raise FormatError(f"{path} holds a {name}, not a WhisperSpec")
        _revision, count = _unpack(file, "II")
        for _ in range(count):
            variable, (rank,) = _string(file), _unpack(file, "B")
            shape = _unpack(file, f"{rank}I")
            kind, size = _unpack(file, "BI")
            data = file.read(size)
            if kind not in DTYPES or len(data) != size:
                raise FormatError(
                    f"{path}: {variable} has type {kind} and {len(data)} of {size} bytes"
                )
            yield variable, np.frombuffer(data, DTYPES[kind]).reshape(shape)


def _unpack(file: BinaryIO, layout: str) -> tuple[int, ...]:
    packed = struct.Struct(f"<{layout}")
    return packed.unpack(file.read(packed.size))


def _string(file: BinaryIO) -> str:
    (size,) = _unpack(file, "H")
    return file.read(size).rstrip(b"\0").decode()


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    """transformers' names and float32 tensors.

    Raises FormatError for a variable that has no counterpart there.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name, array in read_variables(path):
        if array.dtype in (np.float32, np.float16):
            tensors.update(_translate(name, torch.from_numpy(array.astype(np.float32))))
        elif array.ndim:
            raise FormatError(
                f"{path}: {name} is {array.dtype}: quantised weights are not published weights"
            )
    return tensors


def _translate(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    half, _, rest = name.partition("/")
    if rest == "position_encodings/encodings":
        return {f"model.{half}.embed_positions.weight": tensor}
    if name == "decoder/embeddings/weight":
        return {"model.decoder.embed_tokens.weight": tensor}
    if (
        tensor.dim() == 0 or name == "decoder/projection/weight"
    ):  # scales of a setting; the head is tied
        return {}
    module, _, leaf = rest.rpartition("/")
    if half not in BLOCKS or leaf not in LEAF:
        raise FormatError(f"unknown variable {name}")
    layer, _, sublayer = module.partition("/")
    if not layer.removeprefix("layer_").isdigit():  # conv1, conv2, layer_norm
        return {f"model.{half}.{module}.{LEAF[leaf]}": tensor}
    block = f"model.{half}.layers.{layer.removeprefix('layer_')}"
    ours, parts = BLOCKS[half][sublayer]
    if not parts:
        return {f"{block}.{ours}.{LEAF[leaf]}": tensor}
    pieces = dict(zip(parts, tensor.chunk(len(parts)), strict=True))
    if leaf == "bias" and pieces.pop("k_proj").any():
        raise FormatError(f"{name}: Whisper's keys have no bias")
    return {
        f"{block}.{ours}.{part}.{LEAF[leaf]}": piece.contiguous() for part, piece in pieces.items()
    }


def convert(source: Path, target: Path) -> None:
    """Converts `model.bin`, `config.json` and `tokenizer.json` to transformers' format.

    Raises FormatError.
    """
    tensors = tensors_of(source / "model.bin")
    settings = json.loads((source / "config.json").read_text())
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(source / "tokenizer.json", target)
    (target / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "WhisperTokenizer",
                "errors": "replace",
                **dict.fromkeys(_SPECIAL, "<|endoftext|>"),
            }
        )
    )
    tokenizer = WhisperTokenizer.from_pretrained(target)
    generation = _generation(settings, tokenizer, len(tensors["model.decoder.embed_tokens.weight"]))
    generation.save_pretrained(target)
    config = _config(tensors, generation)
    config.save_pretrained(target)
    WhisperFeatureExtractor(feature_size=config.num_mel_bins).save_pretrained(target)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})


_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")


def _generation(settings: dict[str, Any], tokenizer: Any, vocabulary: int) -> GenerationConfig:
    """As the published checkpoints have it."""
    known: dict[str, int] = tokenizer.get_vocab()
    end = known["<|endoftext|>"]
    by_id = {id_: token for token, id_ in known.items()}
    multilingual = vocabulary >= 51865
    languages = {by_id[id_]: id_ for id_ in settings["lang_ids"]} if multilingual else {}
    extra = (
        {
            "lang_to_id": languages,
            "task_to_id": {task: known[f"<|{task}|>"] for task in ("transcribe", "translate")},
        }
        if multilingual
        else {}
    )
    return GenerationConfig(
        decoder_start_token_id=known["<|startoftranscript|>"],
        eos_token_id=end,
        bos_token_id=end,
        pad_token_id=end,
        prev_sot_token_id=known["<|startofprev|>"],
        no_timestamps_token_id=known["<|notimestamps|>"],
        suppress_tokens=settings["suppress_ids"],
        begin_suppress_tokens=settings["suppress_ids_begin"],
        alignment_heads=settings["alignment_heads"],
        is_multilingual=multilingual,
        max_length=MAX_LENGTH,
        max_initial_timestamp_index=FIRST_TIMESTAMP_LIMIT,
        return_timestamps=False,
        **extra,
    )


def _config(tensors: dict[str, torch.Tensor], generation: GenerationConfig) -> WhisperConfig:
    """The sizes follow from the tensors, except the number of heads.

    A head has 64 features in every published Whisper.
    """
    size, mel_bins, _ = tensors["model.encoder.conv1.weight"].shape
    layers = {
        half: 1 + max(_layer(name) for name in tensors if name.startswith(f"model.{half}.layers."))
        for half in BLOCKS
    }
    return WhisperConfig(
        architectures=["WhisperForConditionalGeneration"],
        vocab_size=len(tensors["model.decoder.embed_tokens.weight"]),
        num_mel_bins=mel_bins,
        d_model=size,
        encoder_layers=layers["encoder"],
        decoder_layers=layers["decoder"],
        encoder_attention_heads=size // HEAD_SIZE,
        decoder_attention_heads=size // HEAD_SIZE,
        encoder_ffn_dim=len(tensors["model.encoder.layers.0.fc1.bias"]),
        decoder_ffn_dim=len(tensors["model.decoder.layers.0.fc1.bias"]),
        max_source_positions=len(tensors["model.encoder.embed_positions.weight"]),
        max_target_positions=len(tensors["model.decoder.embed_positions.weight"]),
        decoder_start_token_id=generation.decoder_start_token_id,
        eos_token_id=generation.eos_token_id,
        bos_token_id=generation.bos_token_id,
        pad_token_id=generation.pad_token_id,
        dtype="float32",
    )


def _layer(name: str) -> int:
    return int(name.split(".layers.")[1].split(".")[0])
