"""The sentences and voices of the small Whisper model, and how they are synthesized.

Training and evaluation share this file; they differ only in the voices, which never overlap.
Speech comes from espeak-ng (`apt-get install espeak-ng`).
"""

import random
import re
from dataclasses import dataclass

import numpy as np
from espeak import SAMPLE_RATE, synthesizer

__all__ = ["SAMPLE_RATE"]

DIGITS = {
    "en": ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"],
    "de": ["null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"],
}
TENS = {
    "en": ["ten", "twenty", "thirty", "forty", "fifty", "sixty"],
    "de": ["zehn", "zwanzig", "dreißig", "vierzig", "fünfzig", "sechzig"],
}
# English word -> German word; the articles make the German cases right in the templates below.
ROOMS = {
    "the kitchen": "der küche",
    "the bedroom": "dem schlafzimmer",
    "the garage": "der garage",
    "the garden": "dem garten",
    "the office": "dem büro",
}
DEVICES = {
    "the light": "das licht",
    "the heating": "die heizung",
    "the radio": "das radio",
    "the fan": "den ventilator",
    "the alarm": "den alarm",
}
OPENINGS = {"the door": "die tür", "the window": "das fenster", "the gate": "das tor"}
PLACES = {
    "london": "london",
    "paris": "paris",
    "berlin": "berlin",
    "vienna": "wien",
    "rome": "rom",
    "tokyo": "tokio",
    "delhi": "delhi",
    "cairo": "kairo",
    "boston": "boston",
    "madrid": "madrid",
}
DAYS = {"today": "heute", "tomorrow": "morgen"}
UNITS = {"seconds": "sekunden", "minutes": "minuten", "hours": "stunden"}

ACCENTS = {
    "en": [
        "en-us",
        "en-gb",
        "en-gb-scotland",
        "en-gb-x-gbclan",
        "en-gb-x-gbcwmd",
        "en-gb-x-rp",
        "en-029",
    ],
    "de": ["de"],
}
TRAINING_VARIANTS = [
    "m1", "m2", "m3", "m4", "m5", "m8", "f1", "f3", "f5", "adam", "Alex", "Alicia", "Andrea",
    "Andy", "Annie", "antonio", "belinda", "benjamin", "boris", "caleb", "david", "Denis",
    "Diogo", "ed", "edward2", "Gene", "Gustave", "Henrique", "Hugo", "Jacky", "john", "Lee",
    "linda", "marcelo", "Marco", "Mario", "Michael", "michel", "miguel", "Mike", "pablo",
    "paul", "pedro", "quincy", "rob", "steph3", "travis", "Tweaky", "victor", "Zac", "shelby",
    "sandro", "klatt", "klatt3",
]  # fmt: skip
HELD_OUT_VARIANTS = ["m6", "m7", "f2", "f4", "Gene2", "edward", "max", "robert", "steph", "norbert"]


@dataclass(frozen=True)
class Utterance:
    """One sentence in one voice. `english` translates `text`, or equals it in English."""

    language: str
    text: str
    english: str
    voice: str
    speed: int  # words per minute
    pitch: int  # 0 to 99


def sentence(rng: random.Random, language: str) -> tuple[str, str]:
    """One random sentence in `language` and the same in English."""
    kind = rng.randrange(7)
    if kind == 0:
        count = rng.randint(3, 6)
        picks = [rng.randrange(10) for _ in range(count)]
        spoken = {lang: " ".join(words[i] for i in picks) for lang, words in DIGITS.items()}
        english, german = f"call {spoken['en']}", f"wähle {spoken['de']}"
    elif kind == 1:
        device, room, on = rng.choice([*DEVICES]), rng.choice([*ROOMS]), rng.random() < 0.5
        english = f"turn {'on' if on else 'off'} {device} in {room}"
        german = f"schalte {DEVICES[device]} in {ROOMS[room]} {'ein' if on else 'aus'}"
    elif kind == 2:
        opening, room, is_open = rng.choice([*OPENINGS]), rng.choice([*ROOMS]), rng.random() < 0.5
        english = f"{'open' if is_open else 'close'} {opening} of {room}"
        german = f"{'öffne' if is_open else 'schließe'} {OPENINGS[opening]} von {ROOMS[room]}"
    elif kind == 3:
        amount, unit = rng.randrange(6), rng.choice([*UNITS])
        english = f"set a timer for {TENS['en'][amount]} {unit}"
        german = f"stelle einen wecker auf {TENS['de'][amount]} {UNITS[unit]}"
    elif kind == 4:
        start, goal = rng.sample([*PLACES], 2)
        english, german = (
            f"fly from {start} to {goal}",
            f"fliege von {PLACES[start]} nach {PLACES[goal]}",
        )
    elif kind == 5:
        place, day = rng.choice([*PLACES]), rng.choice([*DAYS])
        english, german = (
            f"what is the weather in {place} {day}",
            f"wie wird das wetter in {PLACES[place]} {DAYS[day]}",
        )
    else:
        number, day = rng.randrange(1, 10), rng.choice([*DAYS])
        english = f"wake me up {day} at {DIGITS['en'][number]}"
        german = f"wecke mich {DAYS[day]} um {DIGITS['de'][number]}"
    return (english if language == "en" else german), english


def utterance(rng: random.Random, variants: list[str]) -> Utterance:
    """A random sentence by a random voice among `variants`; two in three are English."""
    language = "en" if rng.random() < 0.67 else "de"
    text, english = sentence(rng, language)
    voice = f"{rng.choice(ACCENTS[language])}+{rng.choice(variants)}"
    return Utterance(language, text, english, voice, rng.randint(130, 200), rng.randint(25, 75))


@dataclass(frozen=True)
class Speech:
    """A sound with what is known about it."""

    samples: np.ndarray  # [n]
    word_starts: tuple[int, ...]  # a sample of each word; words run together share one
    end: int  # the sample behind the last word

    def processed(self, samples: np.ndarray, scale: float, delay: int) -> "Speech":
        """The same speech in `samples` at `scale` times the rate, `delay` of them later."""
        starts = tuple(delay + round(start * scale) for start in self.word_starts)
        return Speech(samples, starts, min(delay + round(self.end * scale), len(samples)))


def synthesize(spoken: Utterance) -> Speech:
    """Samples float32 in [-1, 1] at SAMPLE_RATE, without the silence at both ends."""
    samples, marks = synthesizer().say(spoken.text, spoken.voice, spoken.speed, spoken.pitch)
    loud = np.flatnonzero(np.abs(samples) > 0.01 * 32768)
    first, last = int(loud[0]), int(loud[-1]) + 1
    starts: list[int] = []
    for word in re.finditer(r"\S+", spoken.text):
        mark = marks[word.start()] - first if word.start() in marks else starts[-1]
        starts.append(max(mark, 0))
    trimmed = samples[first:last].astype(np.float32) / 32768
    return Speech(trimmed, tuple(starts), len(trimmed))
