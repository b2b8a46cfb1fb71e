"""generation_config.json: obeyed as in transformers, or named; null in it wins over config.json."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from plain_engine import PlainEngine
from transformers import AutoModelForSeq2SeqLM, GenerationConfig, PreTrainedModel

from antiphon.config.beam_settings import BeamDefaults
from antiphon.config.errors import CheckpointError
from antiphon.config.generation import GenerationDefaults
from antiphon.config.generation_settings import generation_settings
from antiphon.config.options import ModelOptions, resolve
from antiphon.config.sampling import SamplingParams
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.processor import InputProcessor

PROMPT = "in words: 365250"
SPECIALS = {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
Variant = Callable[..., Path]


@pytest.fixture
def variant(tmp_path: Path, t5_folder: Path) -> Variant:
    """A copy of the shipped T5 with other settings; with None, without generation_config.json."""

    def make(settings: dict[str, Any] | None, **config: Any) -> Path:
        folder = shutil.copytree(t5_folder, tmp_path / "model")
        stated = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**stated, **config}))
        (folder / "generation_config.json").unlink()
        if settings is not None:
            (folder / "generation_config.json").write_text(json.dumps({**SPECIALS, **settings}))
        return folder

    return make


@pytest.fixture(scope="module")
def engine(t5_folder: Path) -> PlainEngine:
    return PlainEngine(t5_folder)


@pytest.fixture(scope="module")
def oracle(t5_folder: Path) -> PreTrainedModel:
    return AutoModelForSeq2SeqLM.from_pretrained(t5_folder, dtype=torch.float32)


def tokens(engine: PlainEngine, folder: Path, **params: Any) -> list[int]:
    inputs = InputProcessor(ModelConfig.load(ModelOptions(str(folder))))
    prepared = inputs.prepare(PROMPT, SamplingParams(**params))
    prompt = prepared.prompt_token_ids
    assert prompt is not None
    request = engine.request(
        prepared.media.payload,
        prompt,
        inputs.max_tokens(len(prompt), prepared.params),
        inputs.rules(len(prompt), prepared.params, False),
        params=inputs.complete(prepared.params),
    )
    engine.submit(request)
    end = engine.run().pop(request.id.number)
    assert end.error is None
    return end.token_ids


def expected(oracle: PreTrainedModel, folder: Path) -> list[int]:
    inputs = InputProcessor(ModelConfig.load(ModelOptions(str(folder))))
    try:
        oracle.generation_config = GenerationConfig.from_pretrained(folder)
    except OSError:
        oracle.generation_config = GenerationConfig.from_pretrained(
            folder, "config.json", _from_model_config=True
        )
    ids = torch.tensor([inputs.tokenizer(PROMPT).input_ids])
    return oracle.generate(ids, attention_mask=torch.ones_like(ids))[0, 1:].tolist()


@pytest.mark.parametrize(
    "settings",
    [
        {"max_new_tokens": 4},
        {"max_length": 6},
        {"max_length": 30, "max_new_tokens": 5},
        {"min_length": 25, "max_length": 30},
        {"min_new_tokens": 22, "max_length": 30},
        {"min_length": 2, "min_new_tokens": 20, "max_length": 30},
        {"repetition_penalty": 60.0, "max_length": 20},
        {"repetition_penalty": 1.3, "max_length": 20},
        {"no_repeat_ngram_size": 2, "max_length": 40},
        {"bad_words_ids": [[6, 31]], "max_length": 20},
        {"bad_words_ids": [[6, 31], [31, 12, 5], [12], [1], [0, 6]], "max_length": 20},
        {"suppress_tokens": [6, 31], "max_length": 20},
        {"begin_suppress_tokens": [6], "max_length": 20},
        {"forced_bos_token_id": 31, "max_length": 20},
        {"forced_bos_token_id": 31, "begin_suppress_tokens": [27, 6], "max_length": 20},
        {"forced_eos_token_id": 1, "max_new_tokens": 5},
        {"eos_token_id": [1, 12], "max_length": 20},
        {"eos_token_id": None, "max_length": 30},
        {"repetition_penalty": None, "no_repeat_ngram_size": None, "max_length": 40},
        {"do_sample": False, "temperature": 0.6, "top_k": 3, "max_length": 40},
        {"num_beams": 3, "renormalize_logits": True, "suppress_tokens": [6, 31], "max_length": 20},
        {"num_beams": 4, "renormalize_logits": True, "repetition_penalty": 1.3, "max_length": 20},
        {"num_beams": 2, "renormalize_logits": True, "forced_bos_token_id": 31, "max_length": 20},
        {"renormalize_logits": True, "suppress_tokens": [6, 31], "max_length": 20},
    ],
    ids=str,
)  # fmt: skip
def test_settings_are_obeyed_as_in_transformers(
    settings: dict[str, Any], variant: Variant, engine: PlainEngine, oracle: PreTrainedModel
) -> None:
    folder = variant(settings)
    assert tokens(engine, folder) == expected(oracle, folder)


@pytest.mark.parametrize(
    ("own", "config"),
    [
        (None, {"max_length": 7}),
        (None, {"suppress_tokens": [6], "max_length": 20}),
        (None, {"force_bos_token_to_be_generated": True, "bos_token_id": 31, "max_length": 20}),
        ({"max_length": 20}, {"max_length": 5, "suppress_tokens": [6], "repetition_penalty": 9.0}),
        ({"max_length": 20, "suppress_tokens": None}, {"suppress_tokens": [6]}),
        ({"max_length": 20, "no_repeat_ngram_size": None}, {"no_repeat_ngram_size": 1}),
    ],
    ids=str,
)  # fmt: skip
def test_old_checkpoints_say_it_in_their_config(
    own: dict[str, Any] | None,
    config: dict[str, Any],
    variant: Variant,
    engine: PlainEngine,
    oracle: PreTrainedModel,
) -> None:
    folder = variant(own, **config)
    assert tokens(engine, folder) == expected(oracle, folder)


def test_what_the_caller_says_goes_before_the_checkpoint(
    variant: Variant, engine: PlainEngine
) -> None:
    plain = tokens(
        engine,
        variant({"max_new_tokens": 4, "repetition_penalty": 60.0, "min_new_tokens": 3}),
        repetition_penalty=1.0,
    )
    assert len(plain) == 4
    folder = engine.model.path
    assert tokens(engine, folder, max_tokens=9)[:4] == plain
    strict = GenerationDefaults.of({"min_new_tokens": 5, "max_new_tokens": 6}, {}, 9)
    assert strict.rules(1, SamplingParams()).min_tokens == 5
    assert strict.rules(1, SamplingParams(min_tokens=0)).min_tokens == 0
    assert strict.max_tokens(1, SamplingParams(), 100) == 6
    assert strict.max_tokens(98, SamplingParams(), 100) == 2
    assert strict.max_tokens(1, SamplingParams(max_tokens=50), 100) == 50


def test_none_of_the_checkpoints_settings_are_defaults_where_nobody_wants_them(
    variant: Variant,
) -> None:
    kept = {"suppress_tokens": [6], "bad_words_ids": [[3, 4]], "begin_suppress_tokens": [27]}
    dropped = {
        "num_beams": 4, "length_penalty": 2.0, "early_stopping": True, "no_repeat_ngram_size": 3,
        "forced_bos_token_id": 31, "forced_eos_token_id": 1, "do_sample": True, "top_p": 0.5,
        "max_length": 20, "min_length": 5, "repetition_penalty": 2.0, "diversity_penalty": 0.5,
    }  # fmt: skip
    special = {
        "eos_token_id": 1, "decoder_start_token_id": 0, "pad_token_id": 0,
        "alignment_heads": [[1, 2]],
    }  # fmt: skip
    folder = variant({**kept, **dropped, **special})
    config = resolve(str(folder), {"generation_config": "vllm"})  # as vLLM spells it
    model = ModelConfig.load(config.model)
    assert model.generation == {**kept, **special}
    assert model.defaults.beams == BeamDefaults()
    assert model.defaults.complete(SamplingParams()) == SamplingParams()
    honoured = ModelConfig.load(ModelOptions(str(folder)))
    assert (honoured.defaults.beams.size, honoured.defaults.forced_first) == (4, 31)


def test_a_checkpoint_that_samples() -> None:
    defaults = GenerationDefaults.of({"do_sample": True, "temperature": 0.6, "top_p": 0.9}, {}, 99)
    drawn = defaults.complete(SamplingParams())
    assert (drawn.temperature, drawn.top_k, drawn.top_p, drawn.min_p) == (0.6, 50, 0.9, 0.0)
    greedy = defaults.complete(SamplingParams(temperature=0.0))
    assert (greedy.temperature, greedy.top_k, greedy.top_p) == (0.0, 0, 1.0)
    own = defaults.complete(SamplingParams(temperature=1.5, top_k=0))
    assert (own.temperature, own.top_k, own.top_p) == (1.5, 0, 0.9)
    quiet = GenerationDefaults.of({"temperature": 0.6, "top_p": 0.9}, {}, 99)
    assert quiet.complete(SamplingParams()) == SamplingParams()  # do_sample is not set
    assert quiet.complete(SamplingParams(temperature=1.0)).top_p == 0.9


def test_what_is_not_obeyed_is_named_once(
    variant: Variant, caplog: pytest.LogCaptureFixture
) -> None:
    folder = variant(
        {
            "num_beams": 4,
            "num_beam_groups": 2,
            "diversity_penalty": 0.5,
            "typical_p": 0.3,
            "encoder_repetition_penalty": 1.0,
        }
    )
    model = ModelConfig.load(ModelOptions(str(folder)))
    with caplog.at_level(logging.WARNING, "antiphon"):
        InputProcessor(model)
    (record,) = caplog.records
    assert " num_beam_groups=2, diversity_penalty=0.5:" in record.getMessage()


def test_beam_settings_without_beams_say_nothing() -> None:
    settings = {
        "num_beams": 1,
        "length_penalty": 2.0,
        "early_stopping": True,
        "typical_p": 0.3,
        "use_cache": False,
    }
    assert GenerationDefaults.of(settings, {}, 9).ignored == ()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"max_length": "20"},
            "max_length of the generation config must be a whole number from 1 on, not '20'",
        ),
        ({"max_new_tokens": 0}, "max_new_tokens of"),
        ({"min_length": 2.5}, "min_length of"),
        (
            {"repetition_penalty": 0.0},
            r"the generation config's repetition_penalty must be in \[0.01, 100\]",
        ),
        (
            {"do_sample": True, "temperature": "hot"},
            "the generation config's temperature must be a number",
        ),
        (
            {"suppress_tokens": ["a"]},
            "suppress_tokens of the generation config must hold token ids",
        ),
        ({"bad_words_ids": [3]}, "bad_words_ids of the generation config must be a list of lists"),
        (
            {"decoder_start_token_id": 99},
            "decoder_start_token_id of the generation config is 99; "
            "the decoder's vocabulary has 0 to 76",
        ),
        ({"forced_bos_token_id": 77}, "forced_bos_token_id of the generation config is 77"),
    ],
)
def test_settings_of_the_wrong_type(
    settings: dict[str, Any], message: str, variant: Variant
) -> None:
    with pytest.raises(CheckpointError, match=message):
        ModelConfig.load(ModelOptions(str(variant(settings))))


def test_ids_outside_the_vocabulary_are_never_generated() -> None:
    defaults = GenerationDefaults.of(
        {"suppress_tokens": [-1, 3, 500], "eos_token_id": [1, 700], "bad_words_ids": [[2, 800]]},
        {},
        99,
    )
    assert (defaults.suppress, defaults.end_ids, defaults.bad_words) == ((3,), (1,), ())


def test_special_tokens_of_config_json_serve_where_nothing_else_is_said() -> None:
    config = {"decoder_start_token_id": 7, "eos_token_id": 2, "bos_token_id": 5}
    assert GenerationDefaults.of({}, config, 9).start_id == 7
    assert (
        GenerationDefaults.of({"decoder_start_token_id": None}, config, 9).start_id == 5
    )  # then the first token, as in transformers
    assert GenerationDefaults.of({"eos_token_id": None}, config, 9).end_ids == ()
    assert generation_settings({"suppress_tokens": None}, {"suppress_tokens": [3]}) == {
        "suppress_tokens": None
    }
