"""What users of other tools pass by habit: accepted, or refused early and by name."""

import io
import os
import subprocess
import sys
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from paths import RECORDINGS

from antiphon import Engine, SamplingParams
from antiphon.actors import session
from antiphon.cli.pairs import parse_pairs
from antiphon.cli.preflight import probe
from antiphon.cli.recordings import expand
from antiphon.config.errors import AudioError, ConfigurationError, PromptError, SamplingError
from antiphon.config.options import ModelOptions
from antiphon.families.checkpoint import ModelConfig, architecture_of
from antiphon.inputs.calls.options import all_prompts, check_recordings
from antiphon.inputs.prompts import token_ids

CALL = RECORDINGS / "call.wav"
SILENCE = np.zeros(16000, np.float32)
SPARSE = torch.ones(16000).to_sparse()
NUMBERS = "in words: 42"


@pytest.fixture(scope="module")
def t5(t5_folder: Path) -> Iterator[Engine]:
    with Engine(str(t5_folder), ray=False) as engine:
        yield engine


@pytest.fixture(scope="module")
def whisper(whisper_folder: Path) -> Iterator[Engine]:
    with Engine(str(whisper_folder), ray=False) as engine:
        yield engine


@pytest.mark.parametrize(
    "recordings",
    [
        *(
            "x.wav",
            CALL,
            b"RIFF",
            bytearray(b"RIFF"),
            memoryview(b"RIFF"),
            io.BytesIO(b"RIFF"),
            None,
            5,
        ),
        *(
            SILENCE,
            torch.zeros(16000),
            array("h", [0, 1]),
            [0.0, 0.5],
            [1, 2, 3],
            (SILENCE, 16000),
            (16000, SILENCE),
        ),
        {"array": SILENCE, "sampling_rate": 16000},
    ],
    ids=lambda value: type(value).__name__,
)
def test_one_recording_is_not_several(recordings: Any) -> None:
    with pytest.raises(PromptError, match="give a list of recordings, not"):
        check_recordings(recordings)


@pytest.mark.parametrize(
    "recordings",
    [
        [],
        (),
        ["a.wav", 5],
        ("a.wav", "b.wav"),
        np.array(["a.wav"]),
        np.zeros((2, 9)),
        iter(["a.wav"]),
        {"a.wav"},
        [(SILENCE, 16000)],
    ],
    ids=lambda value: type(value).__name__,
)
def test_several_recordings_in_any_collection(recordings: Any) -> None:
    check_recordings(recordings)


@pytest.mark.parametrize(
    "prompts", [None, 5, 1.5, b"x", Path("x"), object()], ids=lambda value: type(value).__name__
)
def test_what_is_no_prompt_is_refused_as_a_whole(t5: Engine, prompts: Any) -> None:
    with pytest.raises(PromptError, match="prompts must be a str, a mapping or a list of them"):
        t5.generate(prompts)
    assert all_prompts("x") == ["x"]


@pytest.mark.parametrize("ids", [[1.5], ["5"], "5", b"5", [True], 5, [None], [[5]]], ids=repr)
def test_token_ids_are_whole_numbers(ids: Any) -> None:
    with pytest.raises(PromptError, match="token ids must be a sequence of whole numbers"):
        token_ids(ids)
    assert token_ids(np.array([5, 1])) == (5, 1)


@pytest.mark.parametrize("priority", ["high", 1.5, [1], True], ids=repr)
def test_a_priority_is_a_whole_number_everywhere(
    t5: Engine, whisper: Engine, priority: Any
) -> None:
    calls = [
        lambda: t5.generate(NUMBERS, use_tqdm=False, priority=priority),
        lambda: t5.generate_as_completed([NUMBERS], priority=priority),
        lambda: list(t5.stream(NUMBERS, priority=priority)),
        lambda: whisper.transcribe(CALL, priority=priority),
        lambda: whisper.detect_language(CALL, priority=priority),
    ]
    for call in calls:
        with pytest.raises(PromptError, match="priority must be a whole number"):
            call()


def test_parameters_by_the_name_that_vllm_has(t5: Engine, whisper: Engine) -> None:
    one = SamplingParams(max_tokens=1)
    assert t5.generate(NUMBERS, sampling_params=one, use_tqdm=False)[0].outputs[0].text == "forty"
    assert "".join(delta.text for delta in t5.stream(NUMBERS, sampling_params=one)) == "forty"
    assert (
        whisper.transcribe(CALL, language="en", timestamps=False, sampling_params=one).text
        == "call"
    )
    with pytest.raises(SamplingError, match="give one of them"):
        whisper.transcribe(CALL, params=one, sampling_params=one)
    with pytest.raises(SamplingError, match="give one of them"):
        list(t5.stream(NUMBERS, one, sampling_params=one))


def test_unknown_keywords_of_language_detection(whisper: Engine) -> None:
    with pytest.raises(
        ConfigurationError, match="has no option 'timeuot'\\. Did you mean 'timeout'"
    ):
        whisper.detect_language(CALL, timeuot=3)
    with pytest.raises(ConfigurationError, match="has no option 'language'"):
        whisper.detect_language(CALL, language="en")


def test_an_object_whose_attributes_raise_harms_itself_alone(whisper: Engine) -> None:
    bad = (SPARSE, 16000)  # asking for its size raises a RuntimeError
    good, failed = whisper.transcribe_all([CALL, bad], language="en")
    assert getattr(good, "text", None) == "call seven nine zero"
    assert isinstance(failed, AudioError)
    for call in (whisper.transcribe, whisper.detect_language):
        with pytest.raises(AudioError, match="Sparse"):
            call(bad)


def test_an_empty_path(whisper: Engine) -> None:
    with pytest.raises(AudioError, match="the path of the recording is empty"):
        whisper.transcribe("")


@pytest.mark.parametrize(
    ("language", "code"),
    [("eng", "en"), ("DEU", "de"), ("ger", "de"), ("deu-AT", "de"), ("ENG_us", "en")],
)
def test_languages_by_three_letters(whisper: Engine, language: str, code: str) -> None:
    assert whisper._async.inputs.check_transcription(language=language).language == code


@pytest.mark.parametrize(
    "address", ["nope", "127.0.0.1", ":6379", "host:port", "127.0.0.1:99999999", "http://x"]
)
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(ConfigurationError, match="no Ray cluster at"):
        session.check_reachable(address)


def test_an_architecture_is_known_before_transformers_is_imported(
    t5_folder: Path, whisper_folder: Path
) -> None:
    for folder, reads in ((t5_folder, "text"), (whisper_folder, "audio")):
        options = ModelOptions(model=str(folder))
        assert architecture_of(options) == (ModelConfig.load(options).architecture, reads)
    code = (
        "import sys\n"
        "from antiphon.families.checkpoint import architecture_of\n"
        "from antiphon.config.options import ModelOptions\n"
        f"architecture_of(ModelOptions(model={str(t5_folder)!r}))\n"
        "assert not {'torch', 'transformers', 'ray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def antiphon(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "antiphon", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60
    )


@pytest.mark.parametrize(
    ("flag", "answer"),
    [
        (["--beam-size", "5"], "No option --beam-size: beam search is not there yet"),
        (["--word_timestamps", "True"], "No option --word-timestamps: words have no times yet"),
        (["--vad_filter", "True"], "voice activity is not detected yet"),
        (["--compute_type", "int8"], "give --dtype or --quantization"),
        (["--tensor-parallel-size", "2"], "each half runs on one GPU"),
        (["--output-dirr", "x"], "Did you mean --output-dir?"),
        (["--max-num-seq", "4"], "Did you mean --max-num-seqs?"),
        (["--nope"], "No such option: --nope. `antiphon transcribe --help` lists them."),
        (["--device", "gpux"], "'gpux' is not one of auto, cpu, cuda"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_flags_of_other_tools(flag: list[str], answer: str) -> None:
    done = antiphon("transcribe", str(CALL), "-m", "tiny", *flag)
    assert (done.returncode, done.stdout) == (2, "")
    assert answer in done.stderr


def test_values_as_other_engines_spell_them(whisper_folder: Path) -> None:
    options = [
        "--dtype",
        "float",
        "--kv-cache-dtype",
        "fp8_e4m3",
        "--decoder-attention-backend",
        "TRITON",
        "--device",
        "cpu",
    ]
    done = antiphon("transcribe", str(CALL), "-m", str(whisper_folder), *options)
    assert done.returncode == 2
    assert "decoder_attention_backend='triton' cannot be used" in done.stderr


def test_what_needs_no_engine_starts_none(t5_folder: Path) -> None:
    too_long = antiphon("generate", "x", "-m", str(t5_folder), "--max-tokens", "100000")
    assert (too_long.returncode, "max_tokens=100000" in too_long.stderr) == (2, True)
    nothing = antiphon("generate", "-m", str(t5_folder))
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert "nothing to do" in nothing.stderr
    assert not any("loading" in done.stderr or "Ray" in done.stderr for done in (too_long, nothing))


def test_generation_as_completed(t5: Engine) -> None:
    prompts = [NUMBERS, None, "in words: 7"]
    results = dict(t5.generate_as_completed(iter(prompts), SamplingParams(max_tokens=8)))  # type: ignore[arg-type]
    assert [results[0].outputs[0].text, results[2].outputs[0].text] == ["forty two", "seven"]
    assert isinstance(results[1].error, PromptError)
    for single in (NUMBERS, {"prompt": NUMBERS}, None):
        with pytest.raises(PromptError, match="give a list of prompts"):
            t5.generate_as_completed(single)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="has no option 'temperature'"):
        t5.generate_as_completed(prompts, temperature=1.0)  # type: ignore[arg-type]


def test_prompts_are_answered_in_their_order(t5_folder: Path) -> None:
    numbers = {"in words: 777777": "seven hundred", "in words: 5": "five", "in words: 12": "twelve"}
    done = antiphon("generate", *numbers, "-m", str(t5_folder), "--no-ray", "-q")
    assert (done.returncode, done.stderr) == (0, "")
    assert all(map(str.startswith, done.stdout.splitlines(), numbers.values())), done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--language", "klingon"], "unknown language 'klingon'"),
        (["--language", "fr"], "does not know the language 'fr'"),
        (["--task", "transcripe"], "Did you mean 'transcribe'?"),
        (["-m", "T5"], "reads text: use `antiphon generate` for it"),
    ],
)
def test_what_settings_alone_decide_is_quick(
    arguments: list[str], message: str, whisper_folder: Path, t5_folder: Path
) -> None:
    typed = [
        "transcribe",
        str(CALL),
        "-m",
        str(whisper_folder),
        *(str(t5_folder) if word == "T5" else word for word in arguments),
    ]
    code = (
        f"import sys\nsys.argv = ['antiphon', *{typed!r}]\nfrom antiphon.cli import main\n"
        "try:\n    main()\nfinally:\n"
        "    print(not {'torch', 'transformers', 'tokenizers'}.isdisjoint(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "False\n")
    assert message in done.stderr


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("transcribe --dtype fl", {"float32", "float16"}),
        ("generate --kv-cache-dtype f", {"fp8"}),
        ("tr", {"transcribe"}),
    ],
)
def test_completion(words: str, offered: set[str]) -> None:
    typed = ["antiphon", *words.split()]
    asked = {
        "_ANTIPHON_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(typed),
        "COMP_CWORD": str(len(typed) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-m", "antiphon"],
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert set(done.stdout.split()) == offered


def test_values_as_python_writes_them() -> None:
    pairs = ["ray=False", "enforce-eager=True", "seed=None", "placement=auto", "stop=true story"]
    assert parse_pairs(pairs, "-o") == {
        "ray": False, "enforce_eager": True, "seed": None, "placement": "auto", "stop": "true story"
    }  # fmt: skip


def test_a_name_with_a_colon_is_no_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a:b.wav").write_bytes(CALL.read_bytes())
    monkeypatch.chdir(tmp_path)
    recordings, errors = expand(["a:b.wav"], recursive=False)
    assert (errors, probe(recordings)) == ([], (recordings, []))


def test_a_full_disk_is_one_line(t5_folder: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "antiphon",
        "generate",
        NUMBERS,
        "-m",
        str(t5_folder),
        "--no-ray",
        "-q",
    ]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (
        1,
        "antiphon: cannot go on: No space left on device\n",
    )
