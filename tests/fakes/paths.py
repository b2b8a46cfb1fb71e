"""Where the repository's own files are."""

from pathlib import Path

FAKES = Path(__file__).parent
ROOT = FAKES.parents[1]
EXAMPLES = ROOT / "examples"
WHISPER, T5 = EXAMPLES / "whisper_commands" / "model", EXAMPLES / "t5_numbers" / "model"
RECORDINGS = EXAMPLES / "whisper_commands" / "recordings"
QWEN, TROCR = EXAMPLES / "qwen_shapes" / "model", EXAMPLES / "trocr_digits" / "model"
