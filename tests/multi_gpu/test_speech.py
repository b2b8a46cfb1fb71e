"""The shipped Whisper on recorded commands: in every layout and backend as many wrong words.

A machine without PyAV needs the samples as arrays, in a file that SAMPLES names:

    python benchmarks/scripts/word_error_rate.py --limit 40 --write-samples .gpu/samples.npz
"""

import json
import os
import zipfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paths import EXAMPLES
from rank_courses import transcripts

from antiphon.config.parallel import Parallel

SAMPLES = "ANTIPHON_SAMPLES"
WHISPER = EXAMPLES / "whisper_commands"
COUNT = {"cpu": 4, "cuda": 40}
LAYOUTS = {"cpu": [Parallel(2, 2)], "cuda": [Parallel(2), Parallel(1, 2), Parallel(2, 2)]}
BACKENDS: list[tuple[str, dict[str, Any]]] = [
    ("triton", {}),
    ("torch_sdpa", {}),
    ("flashinfer", {}),
    ("flash_attn", {"kv_page_size": 256}),
    ("flash_attn_3", {}),
]
PACKAGES = {
    "flashinfer": "flashinfer",
    "flash_attn": "flash_attn",
    "flash_attn_3": "flash_attn_interface",
}
Clips = tuple[list[np.ndarray], list[str], list[str]]


@pytest.fixture(scope="module")
def recordings(device: str) -> Clips:
    """Samples at 16 kHz, what is said in them, and languages."""
    with zipfile.ZipFile(WHISPER / "held_out.zip") as archive:
        entries = list(json.loads(archive.read("expected.json")).items())[: COUNT[device]]
        words, languages = ([entry[key] for _, entry in entries] for key in ("text", "language"))
        if (path := os.environ.get(SAMPLES)) is not None:
            stored = np.load(path)
            clips = [stored[name].astype(np.float32) / 32768 for name, _ in entries]
        elif find_spec("av") is None:
            pytest.skip(f"needs PyAV, or samples in the file that {SAMPLES} names: see above")
        else:
            from antiphon.inputs.audio.forms import load_audio

            clips = [load_audio(archive.read(name), 16_000) for name, _ in entries]
    return clips, words, languages


def wrong_words(expected: list[str], heard: list[str]) -> int:
    """The least number of words to replace, insert or leave out."""
    return sum(
        _edits(one.split(), other.split()) for one, other in zip(expected, heard, strict=True)
    )


def _edits(words: list[str], others: list[str]) -> int:
    line = list(range(len(others) + 1))
    for number, word in enumerate(words, 1):
        corner, line[0] = line[0], number
        for i, other in enumerate(others, 1):
            corner, line[i] = line[i], min(corner + (word != other), line[i] + 1, line[i - 1] + 1)
    return line[-1]


def cases() -> Iterator[Any]:
    """Backends with their options: of CPUs one, of GPUs those that are installed."""
    yield pytest.param("cpu", {"dtype": "float32"}, marks=pytest.mark.slow, id="cpu")
    for name, more in BACKENDS:
        package = PACKAGES.get(name)
        missing = package is not None and find_spec(package) is None
        marks = [pytest.mark.multi_gpu, pytest.mark.skipif(missing, reason=f"needs {package}")]
        for eager in (False, True) if name == "triton" else (False,):
            options = {"dtype": "bfloat16", "decoder_attention_backend": name, **more}
            options["enforce_eager"] = eager
            yield pytest.param("cuda", options, marks=marks, id=f"{name}{' eager' * eager}")


@pytest.mark.parametrize(("device", "backend"), list(cases()), indirect=["device"], scope="module")
def test_no_layout_hears_worse(
    device: str,
    backend: dict[str, Any],
    num_devices: int,
    recordings: Clips,
    run_ranks: Callable[..., list[Any]],
) -> None:
    clips, words, languages = recordings
    folder: Path = WHISPER / "model"
    options = {"device": device, "max_num_seqs": 16, "kv_cache_memory_gib": 1, **backend}
    layouts = [one for one in LAYOUTS[device] if one.num_ranks <= num_devices]
    wrong = dict[str, int]()
    for parallel in [Parallel(), *layouts]:
        results = run_ranks(parallel, transcripts, folder, clips, languages, options)
        wrong[str(parallel)] = wrong_words(words, results[parallel.leader])
    print(wrong)
    alone, *others = wrong.values()
    # bfloat16 rounds sums of shares otherwise: single words may differ.
    allowed = 0 if device == "cpu" else max(2, alone // 10)
    assert all(abs(count - alone) <= allowed for count in others), wrong
    total = sum(len(text.split()) for text in words)
    assert max(wrong.values()) <= 0.25 * total, wrong
