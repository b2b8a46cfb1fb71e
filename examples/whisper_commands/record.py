"""Make the shipped recordings and the held-out set, by voices that training never heard.

Needs espeak-ng.

    python examples/whisper_commands/record.py
"""

import argparse
import io
import json
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path

import corpus
import numpy as np
from codec import encode, noisy, noisy_speech

HERE = Path(__file__).parent
HELD_OUT, SEED = 240, 2026
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


def held_out(rng: random.Random) -> Iterator[tuple[corpus.Utterance, corpus.Speech]]:
    """Each utterance with its noisy sound."""
    for _ in range(HELD_OUT):
        spoken = corpus.utterance(rng, corpus.HELD_OUT_VARIANTS)
        yield spoken, noisy_speech(corpus.synthesize(spoken), corpus.SAMPLE_RATE, rng)


def write_word_times(rng: random.Random) -> None:
    """When the words of the held-out set are said, in seconds: their starts, and the last one's
    end. A word that is run together with the one before has no start of its own: null."""
    times = {}
    for index, (_, speech) in enumerate(held_out(rng)):
        starts = [round(start / corpus.SAMPLE_RATE, 3) for start in speech.word_starts]
        own = [
            start if start != before else None
            for before, start in zip([None, *starts], starts, strict=False)
        ]
        times[f"{index:03}.opus"] = [*own, round(speech.end / corpus.SAMPLE_RATE, 3)]
    lines = (f"{json.dumps(name)}: {json.dumps(row)}" for name, row in times.items())
    (HERE / "held_out_words.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def write_held_out(rng: random.Random) -> None:
    with zipfile.ZipFile(HERE / "held_out.zip", "w") as archive:
        expected = {}
        for index, (spoken, speech) in enumerate(held_out(rng)):
            samples = speech.samples
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
                pieces.append(noisy(corpus.synthesize(spoken).samples, corpus.SAMPLE_RATE, rng))
        bit_rate = 24_000 if codec == "libopus" else 48_000
        samples = np.concatenate(pieces)
        encode(samples, corpus.SAMPLE_RATE, folder / name, codec, bit_rate=bit_rate)
        texts[name] = " ".join(sentences)
    (folder / "expected.json").write_text(json.dumps(texts, indent=1, ensure_ascii=False))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only-word-times", action="store_true", help="of the held-out set")
    only_word_times = parser.parse_args().only_word_times
    write_word_times(random.Random(SEED))
    if only_word_times:
        return
    rng = random.Random(SEED)
    write_held_out(rng)
    write_recordings(rng)


if __name__ == "__main__":
    main()
