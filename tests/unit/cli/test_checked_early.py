"""What is wrong whatever the weights are is told before torch and transformers are imported."""

import io
import os

import pytest
from forked_commands import CHECKS, run
from paths import RECORDINGS, T5, WHISPER

from antiphon.attention.registry import check_backend
from antiphon.cli.generate import _lines_of_standard_input
from antiphon.config.errors import AttentionBackendError, PromptError
from antiphon.inputs.prompts import parse
from antiphon.runtime import driver

CALL = str(RECORDINGS / "call.wav")
TRANSCRIBE = ["transcribe", CALL, "-m", str(WHISPER)]
GENERATE = ["generate", "x", "-m", str(T5)]
REPORTING = """
import sys
from antiphon.cli import main
try:
    main()
finally:
    print({"ray", "tokenizers", "torch", "transformers"} & set(sys.modules))
"""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*TRANSCRIBE, "-s", "n=2", "-s", "temperature=1"], "not n=2"),
        ([*TRANSCRIBE, "--chunk-seconds", "90"], "the model's window of 8, not 90"),
        ([*TRANSCRIBE, "--max-tokens", "448"], "max_tokens=448 and a prompt are over"),
        ([*TRANSCRIBE, "--max-model-len", "99999"], "max_model_len=99999 is more than"),
        ([*TRANSCRIBE, "--encoder-attention-backend", "flush"], "unknown attention backend"),
        ([*TRANSCRIBE, "-s", "stop_token_ids=[99999999]"], "has token id 99999999"),
        ([*GENERATE, "--target-language", "fr"], "leave out target_language"),
        ([*GENERATE, "--source-language", "de"], "leave out source_language"),
        ([*GENERATE, "--max-tokens", "100000"], "over the decoder's 512"),
        ([*GENERATE, "--decoder-attention-backend", "flex", "--no-ray"], "has no causal attention"),
        ([*GENERATE, "--decoder-attention-backend", "flashh"], "unknown attention backend"),
        (
            [*GENERATE, "--decoder-attention-backend", "triton", "--device", "cpu", "--no-ray"],
            "'triton' cannot be used: does not run on cpu. Valid here: ",
        ),
        ([*GENERATE, "--dtype", "float16"], "can't hold the activations of t5"),
    ],
)
def test_it_takes_no_heavy_import(arguments: list[str], message: str) -> None:
    done = run(REPORTING, *arguments, imported=CHECKS)
    assert (done.returncode, done.stdout) == (2, "set()\n")
    assert message in done.stderr


def test_no_prompts_are_no_work() -> None:
    done = run(REPORTING, "generate", "-m", str(T5), imported=CHECKS)
    assert (done.returncode, done.stdout) == (0, "set()\n")
    assert "nothing to do" in done.stderr


@pytest.mark.skipif(driver.gpu_is_possible(), reason="torch may see a GPU here")
@pytest.mark.parametrize("arguments", [TRANSCRIBE, GENERATE], ids=["transcribe", "generate"])
def test_a_gpu_without_a_driver(arguments: list[str]) -> None:
    done = run(REPORTING, *arguments, "--device", "cuda", "--no-ray", imported=CHECKS)
    assert (done.returncode, done.stdout) == (2, "set()\n")
    assert "torch sees no CUDA device here" in done.stderr


@pytest.mark.parametrize(
    ("build", "files", "possible"),
    [
        ("2.13.0+cpu", (os.devnull,), False),
        ("2.13.0", (os.devnull,), True),
        ("2.13.0", ("/no/driver",), False),
    ],
)
def test_a_gpu_is_possible_with_a_build_and_a_driver_for_it(
    build: str, files: tuple[str, ...], possible: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_library(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(driver.sys, "platform", "linux")
    monkeypatch.setattr(driver, "version", lambda package: build)
    monkeypatch.setattr(driver, "DRIVER_FILES", files)
    monkeypatch.setattr(driver.ctypes, "CDLL", no_library)
    assert driver.gpu_is_possible() is possible


def test_a_backend_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("antiphon.attention.support.find_spec", lambda package: None)
    with pytest.raises(AttentionBackendError, match=r"triton is not installed\. Valid here: torch"):
        check_backend("encoder", "triton", on_cpu=False)
    check_backend("decoder", "torch_sdpa", on_cpu=True)


def test_a_line_that_is_not_utf_8_is_its_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = io.TextIOWrapper(io.BytesIO(b"caf\xe9\nplain\r\n"), "utf-8")
    monkeypatch.setattr("sys.stdin", lines)
    broken, plain = _lines_of_standard_input()
    assert parse(plain, "text").encoder.text == "plain"
    with pytest.raises(PromptError, match="the byte 0xE9, which is not UTF-8"):
        parse(broken, "text")


def test_prompts_may_begin_with_a_byte_order_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbffirst\nsecond\n"), "utf-8")
    monkeypatch.setattr("sys.stdin", lines)
    assert _lines_of_standard_input() == ["first", "second"]
