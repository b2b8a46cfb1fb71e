"""The command as users of other tools type it: their flags and values, taken or refused by name."""

import subprocess
from pathlib import Path

import pytest
from forked_commands import CHECKS, ENGINES, MAIN, run
from paths import RECORDINGS

from antiphon.cli.pairs import parse_pairs
from antiphon.cli.preflight import probe
from antiphon.cli.recordings import expand

CALL = RECORDINGS / "call.wav"
NUMBERS = "in words: 42"


def antiphon(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run(MAIN, *arguments, imported=CHECKS)


@pytest.mark.parametrize(
    ("flag", "answer"),
    [
        (["--num-beams", "5"], "it is called --beam-size"),
        (["--vad", "True"], "it is called --vad-filter here"),
        (["--logprob_threshold", "low"], "must be a number or None, not 'low'"),
        (["--compute_type", "int8"], "give --dtype or --quantization"),
        (["--data-parallel-size", "2"], "give decoder_replicas"),
        (["--output-dirr", "x"], "Did you mean --output-dir?"),
        (["--max-num-seq", "4"], "Did you mean --max-num-seqs?"),
        (["--stop", "x"], "No option --stop: give -s stop=..., a list as JSON."),
        (["--allowed-token-ids", "5"], "give -s allowed_token_ids=..."),
        (["--stop_token_ids", "5"], "give -s stop_token_ids=..."),
        (["--nope"], "No such option: --nope. `antiphon transcribe --help` lists them."),
        (["--device", "gpux"], "'gpux' is not one of auto, cpu, cuda"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_flags_of_other_tools(flag: list[str], answer: str) -> None:
    done = antiphon("transcribe", str(CALL), "-m", "tiny", *flag)
    assert (done.returncode, done.stdout) == (2, "")
    assert answer in done.stderr


def test_sampling_flags_of_a_command_that_does_not_sample() -> None:
    done = antiphon("serve", "tiny", "--stop-token-ids", "5")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--stop-token-ids: it belongs to the commands that generate." in done.stderr


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


def test_prompts_are_answered_in_their_order(t5_folder: Path) -> None:
    numbers = {"in words: 777777": "seven hundred", "in words: 5": "five", "in words: 12": "twelve"}
    arguments = (*numbers, "-m", str(t5_folder), "--no-ray", "-q")
    done = run(MAIN, "generate", *arguments, imported=ENGINES)
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
    done = run(code, imported=CHECKS)
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
def test_completion(words: str, offered: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    typed = ["antiphon", *words.split()]
    monkeypatch.setenv("_ANTIPHON_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", " ".join(typed))
    monkeypatch.setenv("COMP_CWORD", str(len(typed) - 1))
    done = antiphon()
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
    into_full = "import os\nos.dup2(os.open('/dev/full', os.O_WRONLY), 1)\n"
    arguments = (NUMBERS, "-m", str(t5_folder), "--no-ray", "-q")
    done = run(into_full + MAIN, "generate", *arguments, imported=ENGINES)
    assert (done.returncode, done.stderr) == (
        1,
        "antiphon: cannot go on: No space left on device\n",
    )
