"""Makes the shipped recordings and the held-out set: voices that training never heard. Needs espeak-ng.

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
# name -> (codec, container format): a few of the many that PyAV reads
RECORDINGS = {
    "call.wav": "pcm_s16le", "light.flac": "flac", "door.mp3": "mp3", "timer.webm": "libopus", "flight.opus": "libopus",
    "weather.m4a": "aac", "wecker.wav": "pcm_s16le", "long.opus": "libopus",
}  # fmt: skip


def main() -> None:
    rng = random.Random(2026)
    with zipfile.ZipFile(HERE / "held_out.zip", "w") as archive:
        expected = {}
        for index in range(HELD_OUT):
            spoken = corpus.utterance(rng, corpus.HELD_OUT_VARIANTS)
            buffer = io.BytesIO()
            encode(
                noisy(corpus.synthesise(spoken), corpus.SAMPLE_RATE, rng),
                corpus.SAMPLE_RATE,
                buffer,
                "libopus",
                "ogg",
            )
            expected[f"{index:03}.opus"] = {
                "language": spoken.language,
                "text": spoken.text,
                "english": spoken.english,
                "voice": spoken.voice,
            }
            archive.writestr(f"{index:03}.opus", buffer.getvalue())
        archive.writestr("expected.json", json.dumps(expected, indent=1, ensure_ascii=False))

    folder = HERE / "recordings"
    folder.mkdir(exist_ok=True)
    texts = {}
    for (name, codec), kind in zip(RECORDINGS.items(), [0, 1, 2, 3, 4, 5, 6, None], strict=True):
        languages = ["en", "de", "de"][: 1 if name != "wecker.wav" else 3]
        count = 9 if kind is None else 1
        spoken_texts, pieces = [], []
        voice = rng.choice(corpus.HELD_OUT_VARIANTS)
        while len(pieces) < count:
            spoken = corpus.utterance(rng, [voice])
            wanted = spoken.language == languages[-1] and (
                kind is None or _kind(spoken.english) == kind
            )
            if wanted:
                spoken_texts.append(spoken.text)
                pieces.append(noisy(corpus.synthesise(spoken), corpus.SAMPLE_RATE, rng))
        encode(
            np.concatenate(pieces),
            corpus.SAMPLE_RATE,
            folder / name,
            codec,
            bit_rate=24_000 if codec == "libopus" else 48_000,
        )
        texts[name] = " ".join(spoken_texts)
    (folder / "expected.json").write_text(json.dumps(texts, indent=1, ensure_ascii=False))


def _kind(english: str) -> int:
    return ["call", "turn", "open close", "set", "fly", "what", "wake"].index(
        next(
            starts
            for starts in ["call", "turn", "open close", "set", "fly", "what", "wake"]
            if english.split()[0] in starts.split()
        )
    )


if __name__ == "__main__":
    main()
