"""What is wrong whatever the weights are is told before torch and transformers are imported."""

import subprocess
import sys

import pytest
from paths import RECORDINGS, T5, WHISPER

CALL = str(RECORDINGS / "call.wav")
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
        (["transcribe", CALL, "-m", str(WHISPER), "-s", "n=2", "--temperature", "1"], "not n=2"),
        (["generate", "x", "-m", str(T5), "--target-language", "fr"], "leave out target_language"),
        (["generate", "x", "-m", str(T5), "--source-language", "de"], "leave out source_language"),
    ],
)
def test_it_takes_no_heavy_import(arguments: list[str], message: str) -> None:
    command = [sys.executable, "-c", REPORTING, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "set()\n")
    assert message in done.stderr
