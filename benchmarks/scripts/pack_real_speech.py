"""Write what real_speech_gpu.py needs on a machine without PyPI and PyAV.

    python benchmarks/scripts/pack_real_speech.py .gpu-real

makes `.gpu-real/` with
    recordings.npz          every recording as int16 samples at 16 kHz, cut as the engine cuts
    expected.json           this CPU's texts in float32, with timestamps and without; references
    tiny.en.tar.xz.00, .01  the checkpoint in float16, in parts of at most 36 MB
(`echo /.gpu-real/ >> .git/info/exclude` keeps it out of commits).
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests" / "fakes"), str(Path(__file__).parent)]

import numpy as np  # noqa: E402
import real_weights  # noqa: E402
from real_speech_gpu import Transcriber  # noqa: E402
from transformers import WhisperForConditionalGeneration  # noqa: E402

from antiphon.inputs.audio.cuts import cut_at_quiet  # noqa: E402
from antiphon.inputs.audio.forms import load_audio  # noqa: E402

RATE, WINDOW, PART = 16_000, 480_000, "36M"


def pieces() -> dict[str, np.ndarray]:
    """Windows as int16 samples, by name; a recording of one window has the name of its file."""
    windows = {}
    for path in real_weights.recordings():
        samples = load_audio(str(path), RATE)
        spans = cut_at_quiet(samples, WINDOW, RATE)
        for start, end in spans:
            name = path.name if len(spans) == 1 else f"{path.name}-{start}"
            windows[name] = (
                np.round(samples[start:end] * 32768).clip(-32768, 32767).astype(np.int16)
            )
    return windows


def main() -> None:
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    stored = pieces()
    np.savez_compressed(target / "recordings.npz", **stored)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "tiny.en"
        source = real_weights.model("tiny.en")
        WhisperForConditionalGeneration.from_pretrained(source).half().save_pretrained(checkpoint)
        for settings in source.glob("*.json"):
            if settings.name != "config.json":
                (checkpoint / settings.name).write_bytes(settings.read_bytes())
        sounds = [samples.astype(np.float32) / 32768 for samples in stored.values()]
        texts, _ = Transcriber(checkpoint).run(sounds, {"device": "cpu", "dtype": "float32"})
        split = f"split -d -b {PART} - {target}/tiny.en.tar.xz."
        pack = f"tar -C {folder} -c tiny.en | xz -3 -T0 | {split}"
        subprocess.run(["bash", "-o", "pipefail", "-c", pack], check=True)
    (target / "expected.json").write_text(
        json.dumps({"texts": texts, "references": real_weights.references()}, indent=1)
    )
    for path in sorted(target.iterdir()):
        print(f"{path} {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
