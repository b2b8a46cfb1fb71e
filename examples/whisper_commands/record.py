"""Make the shipped recordings and the held-out set, by voices that training never heard.

Needs espeak-ng.

    python examples/whisper_commands/record.py
"""

import io
import json
import random
import zipfile
from pathlib import Path

import corpus
import numpy as np
from codec import encode, noisy

HERE = Path(__file__).parent
HELD_OUT = 240
RECORDINGS = {  # name -> codec: a few of the many that PyAV reads
    "call.wav": "pcm_s16le",
    "light.flac": "flac",
    "door.mp3": "mp3",
    "timer.webm": "libopus",
    "flight.opus": "libopus",
    "weather.m4a": "aac",
    "wecker.wav": "pcm_s16le",
    "long.opus": "libopus",
}


FIRST_WORDS = (  # of the seven kinds of sentence, in English
    ("call",),
    ("turn",),
    ("open", "close"),
    ("set",),
    ("fly",),
    ("what",),
    ("wake",),
)


def write_held_out(rng: random.Random) -> None:
    with zipfile.ZipFile(HERE / "held_out.zip", "w") as archive:
        expected = {}
        for index in range(HELD_OUT):
            spoken = corpus.utterance(rng, corpus.HELD_OUT_VARIANTS)
            samples = noisy(corpus.synthesize(spoken), corpus.SAMPLE_RATE, rng)
            buffer = io.BytesIO()
            encode(samples, corpus.SAMPLE_RATE, buffer, "libopus", "ogg")
            expected[f"{index:03}.opus"] = {
                "language": spoken.language,
                "text": spoken.text,
                "english": spoken.english,
                "voice": spoken.voice,
            }
            archive.writestr(f"{index:03}.opus", buffer.getvalue())
        archive.writestr("expected.json", json.dumps(expected, indent=1, ensure_ascii=False))


def write_recordings(rng: random.Random) -> None:
    """One sentence of each kind in a file of its own, and nine of any kind in the last one."""
    folder = HERE / "recordings"
    folder.mkdir(exist_ok=True)
    texts = {}
    for (name, codec), kind in zip(RECORDINGS.items(), [*FIRST_WORDS, None], strict=True):
        language = "de" if name == "wecker.wav" else "en"
        voice = rng.choice(corpus.HELD_OUT_VARIANTS)
        sentences: list[str] = []
        pieces: list[np.ndarray] = []
        while len(pieces) < (9 if kind is None else 1):
            spoken = corpus.utterance(rng, [voice])
            if spoken.language != language:
                continue
            if kind is None or spoken.english.split()[0] in kind:
                sentences.append(spoken.text)
                pieces.append(noisy(corpus.synthesize(spoken), corpus.SAMPLE_RATE, rng))
        bit_rate = 24_000 if codec == "libopus" else 48_000
        samples = np.concatenate(pieces)
        encode(samples, corpus.SAMPLE_RATE, folder / name, codec, bit_rate=bit_rate)
        texts[name] = " ".join(sentences)
    (folder / "expected.json").write_text(json.dumps(texts, indent=1, ensure_ascii=False))


def main() -> None:
    rng = random.Random(2026)
    write_held_out(rng)
    write_recordings(rng)


if __name__ == "__main__":
    main()
