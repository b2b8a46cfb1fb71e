"""Wrong languages are found in a checkpoint's files, without what takes seconds to import."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_translators
from forked_commands import CHECKS, run
from paths import RECORDINGS
from transformers import AutoTokenizer
from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

from antiphon.cli import preflight
from antiphon.config.errors import PromptError
from antiphon.config.sampling import SamplingParams
from antiphon.inputs.languages.iso639 import OWN_NAMES
from antiphon.inputs.languages.lookup import MEANT, language_code
from antiphon.inputs.languages.names import CODES_BY_NAME, NAMES
from antiphon.inputs.whisper.tokens import added_tokens

CALL = RECORDINGS / "call.wav"
Make = Callable[..., Path]


def test_the_languages_are_those_of_transformers() -> None:
    assert list(NAMES.items()) == list(LANGUAGES.items())
    assert CODES_BY_NAME == TO_LANGUAGE_CODE


@pytest.fixture
def make(whisper_folder: Path, tmp_path: Path) -> Make:
    """The shipped checkpoint with other settings; None takes one away."""

    def copy(without: tuple[str, ...] = (), **settings: object) -> Path:
        folder = tmp_path / "model"
        shutil.copytree(whisper_folder, folder)
        path = folder / "generation_config.json"
        stated = {**json.loads(path.read_text()), **settings}
        path.write_text(
            json.dumps({name: value for name, value in stated.items() if value is not None})
        )
        for name in without:
            (folder / name).unlink()
        return folder

    return copy


@pytest.mark.parametrize(
    ("settings", "language", "task", "message"),
    [
        ({}, "klingon", None, "unknown language 'klingon'"),
        ({"lang_to_id": None}, "klingon", None, "unknown language 'klingon'"),
        ({"lang_to_id": None}, "fr", None, "does not know the language 'fr' .* It knows: de, en"),
        ({"is_multilingual": False, "lang_to_id": None}, "de", None, "transcribes English only"),
        ({"is_multilingual": False}, None, "translate", "transcribes English only"),
    ],
)
def test_wrong_languages_need_no_tokenizer(
    make: Make, settings: dict[str, object], language: str | None, task: str | None, message: str
) -> None:
    folder = make(**settings)
    typed = ["transcribe", str(CALL), "-m", str(folder)]
    typed += ["--language", language] if language else []
    typed += ["--task", task] if task else []
    code = (
        f"import sys\nsys.argv = ['antiphon', *{typed!r}]\nfrom antiphon.cli import main\n"
        "try:\n    main()\nfinally:\n"
        "    print({'av', 'numpy', 'torch', 'transformers', 'tokenizers'} & set(sys.modules))"
    )
    done = run(code, imported=CHECKS)
    assert done.returncode == 2
    assert not {"torch", "transformers", "tokenizers"} & set(done.stdout.split("'"))
    with pytest.raises(PromptError, match=message):
        preflight.check_transcription(str(folder), {}, language=language, task=task)


def test_right_languages_pass(make: Make) -> None:
    folder = make(lang_to_id=None, task_to_id=None, is_multilingual=None)
    for language in (None, "German", "EN", "de-DE", "<|de|>", "auto"):
        preflight.check_transcription(str(folder), {}, language=language, task="transcribe")


def test_added_tokens_of_every_form(whisper_folder: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(whisper_folder)
    tokenizer.save_pretrained(tmp_path)
    for folder in (whisper_folder, tmp_path):
        tokens = added_tokens(folder)
        assert {tokenizer.convert_tokens_to_ids(token) == id_ for token, id_ in tokens.items()} == {
            True
        }
        assert {"<|de|>", "<|en|>", "<|transcribe|>"} <= set(tokens)
    assert added_tokens(tmp_path / "none") == {}


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"added_tokens": 5}', '{"added_tokens": [{}]}', "\x00", "null"]
)
def test_broken_files_are_left_to_who_loads_them(content: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    assert added_tokens(tmp_path) == {}


@pytest.mark.parametrize(
    ("typed", "code"),
    [("Deutsch", "de"), ("Español", "es"), ("français", "fr"), ("日本語", "ja"), ("Farsi", "fa"),
     ("english (US)", "en"), ("Greek (modern)", "el"), ("de_DE.UTF-8", "de"), ("norsk", "no"),
     ("haitian_creole", "ht"), ("Tiếng Việt", "vi"), ("Norwegian Nynorsk", "nn"),
     ("norwegian_nynorsk", "nn"), ("norwegian-bokmål", "no"), ("Simplified Chinese", "zh"),
     ("Brazilian Portuguese", "pt"), ("Mandarin_Chinese", "zh"), ("British English", "en")],
)  # fmt: skip
def test_names_as_people_type_them(typed: str, code: str) -> None:
    assert language_code(typed, NAMES) == code
    assert language_code(typed.upper(), NAMES) == code
    with pytest.raises(PromptError, match=f"does not know the language .* \\({code}\\)"):
        language_code(typed, {"sw"})


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("jp", "ja"),
        ("cn", "zh"),
        ("UA", "uk"),
        ("cz", "cs"),
        ("detect", "auto"),
        ("None", "auto"),
        ("multilingual", "auto"),
    ],
)
def test_what_was_meant_is_suggested(typed: str, meant: str) -> None:
    with pytest.raises(PromptError, match=f"Did you mean '{meant}'"):
        language_code(typed, NAMES)


def test_own_names_are_of_languages_that_whisper_has() -> None:
    assert set(OWN_NAMES.values()) <= set(NAMES)
    assert set(MEANT.values()) <= {"auto", *NAMES}
    assert not set(MEANT) & set(NAMES)
    assert all(CODES_BY_NAME.get(name, code) == code for name, code in OWN_NAMES.items())


def test_wrong_languages_of_a_translator_need_no_tokenizer(tmp_path: Path) -> None:
    tiny_translators.make("nllb", tmp_path)
    typed = ["generate", "x", "-m", str(tmp_path), "--target-language", "Klingon"]
    code = (
        f"import sys\nsys.argv = ['antiphon', *{typed!r}]\nfrom antiphon.cli import main\n"
        "try:\n    main()\nfinally:\n"
        "    print({'torch', 'transformers', 'tokenizers'} & set(sys.modules))"
    )
    done = run(code, imported=CHECKS)
    assert (done.returncode, done.stdout) == (2, "set()\n")
    assert "unknown target_language 'Klingon'" in done.stderr
    right = {"source_language": "German", "target_language": "fr"}
    preflight.check_text_settings(str(tmp_path), {}, SamplingParams(), right)
