"""Prompts, options and checkpoints: what is taken, what is refused, and in which words."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from paths import T5
from plain_engine import PlainEngine
from safetensors.torch import load_file, save_file

from antiphon.config.errors import (
    CheckpointError,
    ConfigurationError,
    PromptError,
    SamplingError,
    UnsupportedModelError,
)
from antiphon.config.options import ModelOptions, resolve
from antiphon.config.sampling import SamplingParams
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.detokenizer import TextStream
from antiphon.inputs.processor import InputProcessor
from antiphon.inputs.prompts import parse

SILENCE = (np.zeros(1000, np.float32), 16_000)


@pytest.fixture(scope="module")
def t5(t5_folder: Path) -> InputProcessor:
    return InputProcessor(ModelConfig.load(ModelOptions(str(t5_folder), max_encoder_len=20)))


@pytest.fixture(scope="module")
def whisper(whisper_folder: Path) -> InputProcessor:
    return InputProcessor(ModelConfig.load(ModelOptions(str(whisper_folder))))


def test_a_single_text_goes_to_the_half_that_reads_text() -> None:
    assert parse("hello", "text").encoder.text == "hello"
    both = parse({"prompt": "<|en|>", "multi_modal_data": {"audio": SILENCE}}, "audio")
    assert both.encoder.audio is SILENCE
    assert both.decoder.text == "<|en|>"
    explicit = parse({"encoder_prompt": "hello", "decoder_prompt": [1, 2]}, "text")
    assert (explicit.encoder.text, explicit.decoder.token_ids) == ("hello", (1, 2))


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (17, "must be a str or a mapping"),
        ({"promt": "x"}, "Did you mean 'prompt'"),
        ({"prompt": 3}, "'prompt' must be a str"),
        ({"prompt": "x", "prompt_token_ids": [1]}, "not both"),
        ({"prompt": "x", "multi_modal_data": {"sound": 1}}, "unknown key 'sound'"),
        ({"multi_modal_data": [1]}, "must be a mapping"),
        ({"decoder_prompt": "x"}, "needs an 'encoder_prompt'"),
        (
            {"encoder_prompt": "x", "decoder_prompt": {"multi_modal_data": {"audio": SILENCE}}},
            "media belong to 'encoder_prompt'",
        ),
        ({"prompt_token_ids": ["a"]}, "whole numbers"),
        ({"prompt_token_ids": []}, "the encoder prompt is empty"),
        ({"prompt_token_ids": [5, 77]}, "token id 77; the vocabulary has 0 to 76"),
        ({"prompt_token_ids": [-1]}, "token id -1"),
        ({"prompt_token_ids": [5] * 21}, "21 tokens of text are over the encoder's 20"),
        ({"multi_modal_data": {"audio": SILENCE}}, "it takes no audio"),
        ({}, "the prompt is empty"),
        ("\ud800", r"character 0 of the text is '\\ud800', half of a surrogate pair"),
        ({"prompt": "in words: \ud83d"}, r"character 10 of the text is '\\ud83d'.* broken UTF-16"),
        ("caf\udce9", "it stands for the byte 0xE9, which is not UTF-8 text"),
        (
            {"encoder_prompt": "x", "decoder_prompt": "\udfff"},
            r"character 0 of the text is '\\udfff'",
        ),
        ({"encoder_prompt": "x", "decoder_prompt": [0] * 600}, "leaves no room"),
        ({"encoder_prompt": "x", "decoder_prompt": [0, 99]}, "the decoder prompt has token id 99"),
    ],
)
def test_bad_prompts(t5: InputProcessor, prompt: Any, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        t5.prepare(prompt, SamplingParams())


def test_a_whisper_prompt_needs_audio_within_the_window(whisper: InputProcessor) -> None:
    with pytest.raises(PromptError, match="this model listens"):
        whisper.prepare("hello", SamplingParams())
    with pytest.raises(
        PromptError, match=r"9.0 s of audio are over the model's window of 8 s: use transcribe\(\)"
    ):
        whisper.prepare(
            {"multi_modal_data": {"audio": (np.zeros(9 * 16_000, np.float32), 16_000)}},
            SamplingParams(),
        )


def test_decoder_prompts_begin_with_the_start_token(
    whisper: InputProcessor, t5: InputProcessor
) -> None:
    given = {
        "prompt": "<|en|><|transcribe|><|notimestamps|>",
        "multi_modal_data": {"audio": SILENCE},
    }
    assert whisper.prepare(given, SamplingParams()).prompt_token_ids == [521, 522, 525, 529]
    assert (
        t5.prepare(
            {"encoder_prompt": "7", "decoder_prompt": "seven"}, SamplingParams()
        ).prompt_token_ids[0]
        == 0
    )
    assert t5.prepare("7", SamplingParams()).prompt_token_ids == [0]


def test_equal_content_has_equal_keys(t5: InputProcessor) -> None:
    first, second, third = (
        t5.prepare(text, SamplingParams()).media.key
        for text in ("in words: 7", "in words: 7", "in words: 8")
    )
    assert first == second != third


@pytest.mark.parametrize(
    "params", [{"stop_token_ids": [77]}, {"logit_bias": {-1: 1.0}}, {"allowed_token_ids": [1000]}]
)
def test_sampling_ids_outside_the_vocabulary(t5: InputProcessor, params: dict[str, Any]) -> None:
    with pytest.raises(SamplingError, match="the vocabulary has 0 to 76"):
        t5.prepare("7", SamplingParams(**params))


def test_rules_come_from_the_generation_config(tmp_path: Path, checkpoints) -> None:
    folder, _ = checkpoints("bart")
    copied = shutil.copytree(folder, tmp_path / "bart")
    settings = {
        "decoder_start_token_id": 2, "eos_token_id": [2, 7], "forced_bos_token_id": 0, "forced_eos_token_id": 2, "min_length": 10,
        "no_repeat_ngram_size": 3, "bad_words_ids": [[5], [6, 7]], "max_length": 50,
    }  # fmt: skip
    (copied / "generation_config.json").write_text(json.dumps(settings))
    shutil.copy(T5 / "tokenizer.json", copied)
    shutil.copy(T5 / "tokenizer_config.json", copied)
    inputs = InputProcessor(ModelConfig.load(ModelOptions(str(copied))))
    rules = inputs.rules(1, SamplingParams(stop_token_ids=[9]), False)
    assert (rules.stop_ids, rules.suppress, rules.forced_first, rules.forced_last) == (
        (2, 7, 9),
        (5,),
        0,
        2,
    )
    assert (rules.min_tokens, rules.no_repeat_ngram) == (9, 3)
    assert inputs.rules(2, SamplingParams(ignore_eos=True), False).stop_ids == ()
    assert inputs.rules(2, SamplingParams(), False).forced_first is None
    assert inputs.max_tokens(1, SamplingParams()) == 49
    assert inputs.max_tokens(1, SamplingParams(max_tokens=5)) == 5


# ---------------------------------------------------------------------- options


def test_options_resolve_into_sections() -> None:
    config = resolve("m", {"kv_page_size": 8, "encoder_attention_backend": "torch_sdpa"}, {})
    assert (config.decoder.kv_page_size, config.encoder.attention_backend) == (
        8,
        "torch_sdpa",
    )


def test_environment_variables_serve_for_attention_backends() -> None:
    environment = {"ANTIPHON_DECODER_ATTENTION_BACKEND": "torch_sdpa"}
    assert resolve("m", {}, environment).decoder.attention_backend == "torch_sdpa"
    assert (
        resolve("m", {"decoder_attention_backend": "auto"}, environment).decoder.attention_backend
        == "auto"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_num_seq": 3}, "unknown option 'max_num_seq'. Did you mean 'max_num_seqs'"),
        ({"kv_page_size": 0}, "kv_page_size must be a whole number above 0, not 0"),
        ({"max_num_seqs": 2.5}, "max_num_seqs must be a whole number"),
        ({"max_num_seqs": True}, "max_num_seqs"),
        ({"kv_cache_memory_gib": -1}, "kv_cache_memory_gib must be a number above 0"),
        ({"dtype": "int4"}, "dtype must be one of auto, float32"),
        ({"device": "tpu"}, "device must be one of auto, cpu, cuda"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        resolve("m", options)


# ---------------------------------------------------------------------- checkpoints


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
    change(bart_copy, architectures=["LlamaForCausalLM"])
    with pytest.raises(
        UnsupportedModelError,
        match=r"LlamaForCausalLM .* Supported: BartForConditionalGeneration.*WhisperFor",
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
    from antiphon.layers.weights import Checkpoint

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


# ---------------------------------------------------------------------- text out, and routing


def words(ids: list[int]) -> str:
    return "".join(chr(id_) for id_ in ids)


def test_stop_strings_are_found_across_tokens_and_held_back_while_streaming() -> None:
    stream = TextStream(words, ("END", "xyz"), 0, include_stop=False)
    shown = ""
    for character in "hello ENx EN":
        stream.add([ord(character)])
        shown += stream.take()
        assert not stream.stopped
    assert "hello ENx EN".startswith(shown)
    assert len("hello ENx EN") - len(shown) == 2
    stream.add([ord("D"), ord("!")])
    assert stream.stopped
    assert shown + stream.take(final=True) == "hello ENx "
    assert len(stream.token_ids) == len("hello ENx END")


def test_stop_strings_wait_for_min_tokens_and_may_be_kept() -> None:
    stream = TextStream(words, ("b",), 3, include_stop=True)
    stream.add([ord(c) for c in "abcb..."])
    assert (stream.text, stream.stopped) == ("abcb", True)


def test_unfinished_characters_wait_for_their_bytes() -> None:
    stream = TextStream(lambda ids: bytes(ids).decode(errors="replace"), (), 0, False)
    shown = []
    for byte in "aé€".encode():
        stream.add([byte])
        shown.append(stream.take())
    assert shown == ["a", "", "é", "", "", "€"]
    cut = TextStream(lambda ids: bytes(ids).decode(errors="replace"), (), 0, False)
    cut.add(list("é".encode()[:1]))
    assert cut.take(final=True) == "�"
