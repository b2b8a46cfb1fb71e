"""CTranslate2's folders: the same tokens as the transformers checkpoint behind them."""

import copy
import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import ctranslate2_files
import numpy as np
import pytest
import tiny_models
import tiny_translators
import torch
from oracle import clips, oracle
from plain_engine import PlainEngine
from transformers import PreTrainedModel, WhisperFeatureExtractor

from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.errors import CheckpointError, UnsupportedModelError
from antiphon.config.options import ModelOptions
from antiphon.families.checkpoint import ModelConfig, architecture_of
from antiphon.inputs.tokenizer import load_tokenizer
from antiphon.layers.checkpoint import Checkpoint
from antiphon.layers.ctranslate2_tensors import CTranslate2Tensors

TOKENS = {
    0: "<s>", 1: "<pad>", 2: "</s>", 3: "<unk>", 60: "<|endoftext|>", 61: "<|startoftranscript|>",
    62: "<|en|>", 63: "<|de|>", 64: "<|translate|>", 65: "<|transcribe|>", 66: "<|notimestamps|>",
}  # fmt: skip
TEXT = {"decoder_start_token": "</s>", "eos_token": "</s>", "bos_token": "<s>"}
CONFIGS: dict[str, dict[str, Any]] = {
    "whisper": {
        "suppress_ids": [3, 5, 7], "suppress_ids_begin": [60, 9], "lang_ids": [62, 63, 64],
        "alignment_heads": [[1, 0], [2, 2]],
    },
    "t5": {**TEXT, "decoder_start_token": "<s>"},
    "t5_gated_untied": {**TEXT, "decoder_start_token": "<s>"},
    "pegasus": {**TEXT, "decoder_start_token": "<s>"},
}  # fmt: skip
QUICK = [
    *((name, None) for name in ("whisper", "marian", "m2m100", "t5", "bart_scaled")),
    *((name, "int8") for name in ("whisper", "marian")),
    ("m2m100", "int8_float16"),
    ("t5", "float16"),
]
SLOW = [
    *((name, None) for name in ("t5_gated_untied", "mbart", "pegasus")),
    ("whisper", "float16"),
    ("marian", "float16"),
    ("t5", "int8"),
    ("t5", "bfloat16"),
]
CASES = [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]
MAX_NEW = 12


def tokens_of(name: str) -> list[str]:
    count = tiny_models.VOCAB - (1 if name == "marian" else 0)
    return [TOKENS.get(id_, f"t{id_}") for id_ in range(count)]


def stored_as(model: PreTrainedModel, quantization: str | None) -> PreTrainedModel:
    """The model with the numbers that this kind of file holds."""
    own = copy.deepcopy(model)
    plain = (quantization or "").removeprefix("int8").removeprefix("_") or "float32"
    for name, value in [*own.named_parameters(), ("", getattr(own, "final_logits_bias", None))]:
        if value is None:
            continue
        is_matrix = value.dim() > 1 and name and "positions" not in name and "bias" not in name
        if is_matrix and (quantization or "").startswith("int8"):
            values, scale = ctranslate2_files._eight_bits(value.detach())
            value.data = values / scale.view(-1, *[1] * (value.dim() - 1))
        else:
            value.data = value.to(getattr(torch, plain)).float()
    return own


def make(
    name: str, model: PreTrainedModel, folder: Path, quantization: str | None
) -> ctranslate2_files.Variables:
    if name == "marian":  # its padding token stands for the zeros that the decoder starts from
        with torch.no_grad():
            model.model.shared.weight[-1] = 0
            model.final_logits_bias[0, -1] = -1e9
    config = CONFIGS.get(name, TEXT)
    return ctranslate2_files.write(model, tokens_of(name), folder, quantization, **config)


def requests(model: PreTrainedModel) -> list[tuple[np.ndarray, torch.Tensor, list[int]]]:
    """(payload, transformers' inputs, decoder prompt)"""
    if model.config.model_type == "whisper":
        extractor = WhisperFeatureExtractor(feature_size=80, chunk_length=1)
        sounds = clips(2, 16_000)
        features = [extractor(c, sampling_rate=16_000, return_tensors="pt") for c in sounds]
        return [
            (clip, feature.input_features, [61, 62, 65, 66])
            for clip, feature in zip(sounds, features, strict=True)
        ]
    rng = np.random.default_rng(1)
    texts = [rng.integers(4, 90, length).astype(np.int32) for length in (1, 9, 30)]
    start = model.config.decoder_start_token_id
    return [(text, torch.from_numpy(text)[None].long(), [start]) for text in texts]


@pytest.mark.parametrize(("name", "quantization"), CASES)
def test_same_tokens_as_transformers(
    name: str, quantization: str | None, checkpoints, tmp_path: Path
) -> None:
    model = copy.deepcopy(checkpoints(name)[1])
    make(name, model, tmp_path, quantization)
    theirs = stored_as(model, quantization)
    engine = PlainEngine(tmp_path, dtype="float32")
    assert engine.model.defaults.start_id == model.config.decoder_start_token_id
    numbers, expected = [], []
    for payload, inputs, prompt in requests(model):
        numbers.append(engine.submit(engine.request(payload, prompt, MAX_NEW, DecodingRules())))
        settings = {"suppress_tokens": None, "begin_suppress_tokens": None, "eos_token_id": None}
        settings |= {"forced_bos_token_id": None, "forced_eos_token_id": None}
        expected.append(oracle(theirs, inputs, prompt, MAX_NEW, **settings)[0])
    ends = engine.run()
    assert [list(ends[number].token_ids) for number in numbers] == expected


def test_eight_bit_numbers_are_the_files_own(checkpoints, tmp_path: Path) -> None:
    """`quantization="int8"` finds them again in the numbers that they stand for."""
    stored = make("whisper", checkpoints("whisper")[1], tmp_path, "int8")
    for dtype in ("float32", "float16"):
        engine = PlainEngine(tmp_path, quantization="int8", dtype=dtype)
        layer = engine.replica.runner.model.layers[1]
        for ours, theirs in (
            (layer.self_attn.qkv, "decoder/layer_1/self_attention/linear_0/weight"),
            (layer.encoder_attn.out_proj, "decoder/layer_1/attention/linear_2/weight"),
            (layer.fc2, "decoder/layer_1/ffn/linear_1/weight"),
        ):
            assert torch.equal(ours.weight, stored[theirs])
            scales = 1 / stored[f"{theirs}_scale"]
            ours_scales = ours.weight_scale.float().flatten()
            torch.testing.assert_close(ours_scales, scales, rtol=2**-10, atol=0)


def test_whispers_config_becomes_generation_settings(checkpoints, tmp_path: Path) -> None:
    make("whisper", checkpoints("whisper")[1], tmp_path, "float16")
    model = ModelConfig.load(ModelOptions(str(tmp_path)))
    assert model.defaults.suppress == (3, 5, 7)
    assert model.defaults.begin_suppress == (60, 9)
    assert model.generation["alignment_heads"] == [[1, 0], [2, 2]]
    # A token that is no language is no language, though `lang_ids` has it.
    assert model.generation["lang_to_id"] == {"<|en|>": 62, "<|de|>": 63}
    assert model.generation["task_to_id"] == {"transcribe": 65, "translate": 64}
    assert model.raw["dtype"] == "float16"
    assert architecture_of(ModelOptions(str(tmp_path))) == (
        "WhisperForConditionalGeneration",
        "audio",
    )


def test_only_what_is_asked_for_is_read(tmp_path: Path) -> None:
    """A file of 4 GB, most of it a hole, of which three rows are wanted."""
    rows, columns = 1_000_000, 1000
    layer = {"encoder/layer_0/self_attention/linear_0/weight": torch.zeros(6, 2)}
    small = ctranslate2_files.serialized("WhisperSpec", 3, layer, {})
    count = small.index(struct.pack("<II", 3, 1)) + 4  # behind it are the variables
    name = b"decoder/embeddings/weight\0"
    variable = struct.pack("<H", len(name)) + name + struct.pack("<BII", 2, rows, columns)
    variable += struct.pack("<BI", 0, rows * columns * 4 % 2**32)
    with (tmp_path / "model.bin").open("wb") as file:
        file.write(small[:count] + struct.pack("<I", 2) + variable)
        file.seek(rows * columns * 4 - 4, 1)
        file.write(struct.pack("<f", 7.0) + small[count + 4 :])
    tensors = CTranslate2Tensors(tmp_path / "model.bin")
    tracemalloc.start()
    try:
        last = tensors.get_slice("model.decoder.embed_tokens.weight")[
            slice(rows - 3, rows), slice(columns)
        ]
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert last.shape == (3, columns)
    assert last[-1, -1] == 7.0


@pytest.mark.parametrize("first", [0, 1, 3])
@pytest.mark.parametrize("last", [4, 98, 101])
def test_ranks_read_their_own_rows_of_padded_tables(
    first: int, last: int, checkpoints, tmp_path: Path
) -> None:
    make("bart_scaled", checkpoints("bart_scaled")[1], tmp_path, None)
    tensors = CTranslate2Tensors(tmp_path / "model.bin")
    name = "model.decoder.embed_positions.weight"
    rows = tensors.get_slice(name)[slice(first, last), slice(7, 20)]
    assert torch.equal(rows, tensors.get_tensor(name)[first:last, 7:20])


# ------------------------------------------------------------------ tokenizers


def test_translators_get_their_tokenizer_from_the_files_beside(tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / "nllb"
    source.mkdir()
    model, tokenizer = tiny_translators.make("nllb", source)
    ids = tokenizer.get_vocab()
    known = {id_: token for token, id_ in ids.items()}
    tokens = [known.get(id_, f"madeupword{id_}") for id_ in range(model.config.vocab_size)]
    ctranslate2_files.write(model, tokens, folder, **TEXT)
    with pytest.raises(CheckpointError, match=r"no tokenizer.*Put sentencepiece.bpe.model"):
        load_tokenizer(folder)
    (folder / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    text = "the red house"
    assert load_tokenizer(folder)(text).input_ids == tokenizer(text).input_ids
    (folder / "shared_vocabulary.json").write_text(json.dumps([*reversed(tokens)]))
    with pytest.raises(CheckpointError, match="belongs to another model"):
        load_tokenizer(folder)


@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
def test_marian_gets_its_tokenizer_from_the_vocabulary_and_the_pieces(tmp_path: Path) -> None:
    tokenizer, config_class, model_class = tiny_translators.marian(tmp_path)
    ids = tokenizer.get_vocab()
    model = model_class(
        config_class(
            **{**tiny_models.BART_SHAPE, "vocab_size": len(ids)},
            pad_token_id=tokenizer.pad_token_id,
            decoder_start_token_id=tokenizer.pad_token_id,
        )
    )
    folder = tmp_path / "folder"
    tokens = sorted(ids, key=ids.__getitem__)[:-1]
    ctranslate2_files.write(model, tokens, folder, **{**TEXT, "bos_token": "<s>"})
    for side in ("source", "target"):
        (folder / f"{side}.spm").write_bytes((tmp_path / "spm.model").read_bytes())
    text = ">>fra<< the red house"
    loaded = load_tokenizer(folder)
    assert loaded(text).input_ids == tokenizer(text).input_ids
    assert loaded.pad_token_id == model.config.pad_token_id


# ------------------------------------------------------------------ what is refused


def test_broken_files_are_refused(checkpoints, tmp_path: Path) -> None:
    make("t5", checkpoints("t5")[1], tmp_path, None)
    file, options = tmp_path / "model.bin", ModelOptions(str(tmp_path))
    content = file.read_bytes()
    for wrong, message in (
        (content[: len(content) // 2], "cut off, or of another format"),
        (b"", "cut off, or of another format"),
        (content[:-4], "cut off, or of another format"),
        (b"\x80\x02}q\x00." + bytes(50), "version"),
        (struct.pack("<I", 9) + content[4:], "version 9 .* from 4 to 6"),
    ):
        file.write_bytes(wrong)
        with pytest.raises(CheckpointError, match=message):
            ModelConfig.load(options)
    file.write_bytes(content)
    (tmp_path / "shared_vocabulary.json").unlink()
    with pytest.raises(CheckpointError, match=r"holds no vocabulary .* shared_vocabulary.json"):
        ModelConfig.load(options)


def test_other_kinds_of_models_are_refused(checkpoints, tmp_path: Path) -> None:
    variables = ctranslate2_files.variables_of(checkpoints("m2m100")[1])
    file = tmp_path / "model.bin"
    for kind, left, message in (
        ("TransformerDecoderSpec", variables, "holds a TransformerDecoderSpec"),
        (
            "TransformerSpec",
            {name: value for name, value in variables.items() if "encodings" not in name},
            "converted from another toolkit",
        ),
        (
            "TransformerSpec",
            {**variables, "decoder/layer_0/attention/linear_9/weight": torch.zeros(2)},
            "linear_9/weight, which no family",
        ),
    ):
        file.write_bytes(ctranslate2_files.serialized(kind, 7, left, {}))
        with pytest.raises(UnsupportedModelError, match=message):
            Checkpoint(tmp_path)
