"""Translation models: languages in any spelling, prompts and texts as transformers makes them."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import tiny_translators
from plain_engine import PlainEngine
from transformers import PreTrainedModel

from antiphon.config.errors import PromptError
from antiphon.config.options import ModelOptions
from antiphon.config.sampling import SamplingParams
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.processor import InputProcessor
from antiphon.inputs.prompts import Prompt

pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
TEXT = "the red house on the hill"
Translator = Callable[[str], tuple[Path, PreTrainedModel, Any]]


@pytest.fixture(scope="module")
def translator(tmp_path_factory: pytest.TempPathFactory) -> Translator:
    """Name of `tiny_translators.MAKERS` -> (folder, transformers' model, its tokenizer)."""
    saved: dict[str, tuple[Path, PreTrainedModel, Any]] = {}

    def get(name: str) -> tuple[Path, PreTrainedModel, Any]:
        if name not in saved:
            folder = tmp_path_factory.mktemp(name)
            saved[name] = folder, *tiny_translators.make(name, folder)
        return saved[name]

    return get


def processor(folder: Path) -> InputProcessor:
    return InputProcessor(ModelConfig.load(ModelOptions(str(folder))))


@pytest.mark.parametrize(
    ("name", "source", "target"),
    [
        ("nllb", "deu_Latn", "fra_Latn"),
        ("nllb_legacy", "deu_Latn", "fra_Latn"),
        ("m2m100", "de", "fr"),
        ("mbart", "de_DE", "fr_XX"),
        ("mbart50", "de_DE", "fr_XX"),
    ],
)
def test_languages_as_in_transformers(
    name: str, source: str, target: str, translator: Translator
) -> None:
    folder, model, tokenizer = translator(name)
    inputs = processor(folder)
    prepared = inputs.prepare(
        TEXT, SamplingParams(), source_language=source, target_language=target
    )
    tokenizer.src_lang = source
    ids = tokenizer(TEXT, return_tensors="pt").input_ids
    assert prepared.media.payload.tolist() == ids[0].tolist()
    target_id = tokenizer.convert_tokens_to_ids(f"__{target}__" if name == "m2m100" else target)
    expected = model.generate(ids, forced_bos_token_id=target_id)[0].tolist()
    prompt = prepared.prompt_token_ids
    assert prompt == expected[:2] == [tokenizer.eos_token_id, target_id]
    engine = PlainEngine(folder)
    params, count = inputs.complete(prepared.params), inputs.max_tokens(2, prepared.params)
    engine.submit(
        engine.request(
            prepared.media.payload, prompt, count, inputs.rules(2, params, False), params=params
        )
    )
    (end,) = engine.run().values()
    assert end.token_ids == expected[2:]
    assert inputs.decode([target_id, *end.token_ids]) == tokenizer.decode(
        expected, skip_special_tokens=True
    )


def test_marian_is_told_before_the_text(translator: Translator) -> None:
    folder, _, tokenizer = translator("marian")
    inputs = processor(folder)
    for spelling in ("fra", "French", "fr", "FR", ">>fra<<"):
        prepared = inputs.prepare(TEXT, SamplingParams(), target_language=spelling)
        assert prepared.media.payload.tolist() == tokenizer(f">>fra<< {TEXT}").input_ids
        assert prepared.media.payload[0] == tokenizer.convert_tokens_to_ids(">>fra<<")
        assert prepared.prompt_token_ids == [tokenizer.pad_token_id]
    with pytest.raises(
        PromptError, match="hears its source language itself: leave out source_language"
    ):
        inputs.prepare(TEXT, SamplingParams(), source_language="en")


@pytest.mark.parametrize(
    ("name", "spellings", "code"),
    [
        (
            "nllb",
            [
                "fra_Latn",
                "FRA_latn",
                "fra-Latn",
                "fra",
                "fre",
                "fr",
                "fr-FR",
                "fr_FR",
                "French",
                " french ",
            ],
            "fra_Latn",
        ),
        ("nllb", ["zh", "zho", "Chinese", "zh-CN", "mandarin"], "zho_Hans"),
        ("nllb", ["zho_Hant", "zh-Hant"], "zho_Hant"),
        ("nllb", ["nb", "no", "Norwegian", "nob"], "nob_Latn"),
        ("nllb", ["fa", "Persian", "fas", "pes"], "pes_Arab"),
        ("nllb", ["zu", "Zulu"], "zul_Latn"),
        ("nllb", ["ar", "Arabic", "ara"], "arb_Arab"),
        ("nllb", ["ary", "ary_Arab"], "ary_Arab"),
        ("m2m100", ["fr", "__fr__", "FR", "fra", "fra_Latn", "French", "fr_XX"], "fr"),
        ("m2m100", ["jv", "jw", "Javanese"], "jv"),
        ("mbart", ["fr", "fr_XX", "french", "fra", "fr-FR"], "fr_XX"),
        ("mbart50", ["pt", "Portuguese", "pt_XX", "pt-BR"], "pt_XX"),
        ("marian", ["de", "deu", "ger", "German"], "deu"),
        ("marian", ["zh", "cmn_Hans", "Chinese"], "cmn_Hans"),
        ("marian", ["pt", "pt-BR", "Portuguese"], "pt_br"),
    ],
)
def test_languages_in_any_spelling(
    name: str, spellings: list[str], code: str, translator: Translator
) -> None:
    translation = processor(translator(name)[0]).translation
    assert translation is not None
    assert {
        spelling: translation.code(spelling, "target_language") for spelling in spellings
    } == dict.fromkeys(spellings, code)


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        (
            TEXT,
            {"target_language": "klingon"},
            r"unknown target_language 'klingon'\. Valid names: ace_Arab, ",
        ),
        (TEXT, {"target_language": "fra_Latm"}, "Did you mean 'fra_Latn'"),
        (
            TEXT,
            {"target_language": "kas"},
            "target_language 'kas' may be kas_Arab or kas_Deva: give one of them",
        ),
        (
            TEXT,
            {"target_language": 5},
            "target_language must be the name or code of a language, not 5",
        ),
        (TEXT, {"source_language": ""}, "source_language must be the name"),
        ({"prompt": TEXT, "target_language": "xx"}, {}, "unknown target_language 'xx'"),
        ({"prompt": TEXT, "target_languag": "fr"}, {}, "Did you mean 'target_language'"),
        (
            {"prompt_token_ids": [5, 6]},
            {"source_language": "fr"},
            "source_language needs a prompt of text",
        ),
        ({"encoder_prompt": TEXT, "decoder_prompt": [7]}, {"target_language": "fr"}, "not both"),
    ],
)
def test_wrong_languages(
    prompt: Prompt, options: dict[str, Any], message: str, translator: Translator
) -> None:
    with pytest.raises(PromptError, match=message):
        processor(translator("nllb")[0]).prepare(prompt, SamplingParams(), **options)


def test_languages_inside_the_prompt_go_first(translator: Translator) -> None:
    inputs = processor(translator("nllb")[0])
    prompt = {"prompt": TEXT, "source_language": "German", "target_language": "fr"}
    both = inputs.prepare(prompt, SamplingParams(), source_language="en", target_language="es")
    assert (
        both.media.key
        == inputs.prepare(TEXT, SamplingParams(), source_language="deu_Latn").media.key
    )
    assert (
        both.prompt_token_ids
        == inputs.prepare(TEXT, SamplingParams(), target_language="fra_Latn").prompt_token_ids
    )
    halves = {"encoder_prompt": TEXT, "source_language": "German", "target_language": "fr"}
    assert inputs.prepare(halves, SamplingParams()).media.key == both.media.key
    ids = inputs.prepare({"prompt_token_ids": [5, 6]}, SamplingParams(), target_language="fr")
    assert ids.prompt_token_ids == both.prompt_token_ids


def test_a_start_token_that_is_a_language_gives_way(translator: Translator, tmp_path: Path) -> None:
    """mBART-25's fine-tunes begin with the target language itself."""
    folder, _, tokenizer = translator("mbart")
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "generation_config.json").unlink()
    start = tokenizer.convert_tokens_to_ids("ro_RO")
    (tmp_path / "generation_config.json").write_text(
        json.dumps({"decoder_start_token_id": start, "eos_token_id": 2})
    )
    inputs = processor(tmp_path)
    assert inputs.prepare(TEXT, SamplingParams()).prompt_token_ids == [start]
    french = inputs.prepare(TEXT, SamplingParams(), target_language="fr").prompt_token_ids
    assert french == [tokenizer.convert_tokens_to_ids("fr_XX")]


def test_threads_do_not_mix_languages(translator: Translator) -> None:
    inputs = processor(translator("nllb")[0])
    names = ["deu_Latn", "fra_Latn", "zul_Latn", "zho_Hans"] * 50
    with ThreadPoolExecutor(8) as pool:
        prepared = list(
            pool.map(
                lambda name: inputs.prepare(TEXT, SamplingParams(), source_language=name), names
            )
        )
    first = {name: inputs.tokenizer.convert_tokens_to_ids(name) for name in names}
    assert [item.media.payload[0] for item in prepared] == [first[name] for name in names]
    assert inputs.tokenizer.src_lang == "eng_Latn"


def test_models_without_languages_refuse_them(t5_folder: Path, whisper_folder: Path) -> None:
    with pytest.raises(
        PromptError,
        match="this T5ForConditionalGeneration knows no languages: leave out target_language",
    ):
        processor(t5_folder).prepare(TEXT, SamplingParams(), target_language="fr")
    with pytest.raises(
        PromptError, match=r"give language and task to transcribe\(\), not source_language"
    ):
        processor(whisper_folder).prepare({"prompt": "x"}, SamplingParams(), source_language="fr")
