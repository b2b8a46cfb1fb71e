"""What is asked of a server: calls of its API, with what their answers should be."""

import base64
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from antiphon.benchmarks.service.sizes import Sizes
from antiphon.client.calls import Call, chat_call, sound_call, text_call
from antiphon.client.sound import wav
from antiphon.config.errors import ConfigurationError

RATE = 16_000  # Hz, of synthetic sound
LEAST_SECONDS, LEAST_WORDS, LEAST_PIXELS = 0.1, 1, 16
SYLLABLE_SECONDS = 0.2
ENDPOINTS = ("transcriptions", "translations", "chat", "completions")
INPUTS = ("audio", "image", "text")
WORDS = ("of", "to", "in", "that", "it", "was", "for", "on", "with", "they", "at", "this")


@dataclass(frozen=True)
class Ask:
    """One request. `seconds`: of sound. `reference`: the text that is right, if that is known."""

    call: Call[Any]
    seconds: float = 0.0
    reference: str | None = None


@dataclass(frozen=True)
class Form:
    """How inputs become calls. `endpoint`: one of ENDPOINTS. `options`: fields of the API."""

    endpoint: str
    options: Mapping[str, Any] = field(default_factory=dict)
    stream: bool = True

    def ask_of_sound(self, content: bytes, seconds: float, reference: str | None) -> Ask:
        if self.endpoint in ("transcriptions", "translations"):
            stream = self.stream and self.endpoint == "transcriptions"
            options = {"response_format": "json", **self.options}
            return Ask(
                sound_call(self.endpoint, content, options, stream=stream), seconds, reference
            )
        data = base64.b64encode(content).decode()
        part = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
        return Ask(self._chat([part]), seconds, reference)

    def ask_of_image(
        self, content: bytes, text: str, reference: str | None, max_tokens: Any
    ) -> Ask:
        url = f"data:image/png;base64,{base64.b64encode(content).decode()}"
        parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]
        return Ask(self._chat(parts, max_tokens), reference=reference)

    def ask_of_text(self, text: str, reference: str | None, max_tokens: Any = None) -> Ask:
        if self.endpoint == "chat":
            return Ask(self._chat(text, max_tokens), reference=reference)
        return Ask(text_call(text, self._of_text(max_tokens)), reference=reference)

    def _chat(self, content: Any, max_tokens: Any = None) -> Call[Any]:
        return chat_call([{"role": "user", "content": content}], self._of_text(max_tokens))

    def _of_text(self, max_tokens: int | None) -> dict[str, Any]:
        options = {"max_tokens": max_tokens, **self.options}
        if self.stream:
            options |= {"stream": True, "stream_options": {"include_usage": True}}
        return options


def checked_form(
    endpoint: str, kind: str | None, options: Mapping[str, Any], stream: bool
) -> tuple[Form, str]:
    """The form, and the kind of its inputs. Raises ConfigurationError."""
    if endpoint not in ENDPOINTS:
        raise ConfigurationError(f"no endpoint '{endpoint}': give one of {', '.join(ENDPOINTS)}")
    usual = "audio" if endpoint in ("transcriptions", "translations") else "text"
    kind = kind or usual
    if kind not in INPUTS:
        raise ConfigurationError(f"no input '{kind}': give one of {', '.join(INPUTS)}")
    if endpoint != "chat" and kind != usual:
        raise ConfigurationError(f"{endpoint} takes {usual} alone: {kind} goes to chat")
    return Form(endpoint, options, stream), kind


def synthetic(
    form: Form, kind: str, sizes: Sizes, lengths: Sizes | None, count: int, seed: int
) -> list[Ask]:
    """`count` asks with inputs of their own, the same for the same seed. `sizes`: seconds of sound,
    words of text, or pixels of an image's side. `lengths`: tokens to generate for text and images.
    """
    rng = np.random.default_rng(seed)
    limits: list[Any] = [None] * count
    if lengths is not None:
        if kind == "audio":
            raise ConfigurationError("the length of a transcription is that of its sound")
        limits = [round(length) for length in lengths.draw(count, rng, 1)]
    make: dict[str, Callable[[float, int | None], Ask]] = {
        "audio": lambda size, _: form.ask_of_sound(_sound(size, rng), size, None),
        "image": lambda size, limit: form.ask_of_image(
            _image(round(size), rng), "What is in this picture?", None, limit
        ),
        "text": lambda size, limit: form.ask_of_text(_text(round(size), rng), None, limit),
    }
    least = {"audio": LEAST_SECONDS, "image": LEAST_PIXELS, "text": LEAST_WORDS}[kind]
    drawn = sizes.draw(count, rng, least)
    return [make[kind](size, limit) for size, limit in zip(drawn, limits, strict=True)]


def _sound(seconds: float, rng: np.random.Generator) -> bytes:
    """A WAV file of noise that swells and falls as syllables do: no part of it is silence."""
    count = round(seconds * RATE)
    swell = 0.55 - 0.45 * np.cos(2 * np.pi * np.arange(count) / (SYLLABLE_SECONDS * RATE))
    samples = rng.standard_normal(count, np.float32) * (3000 * swell)
    return wav(samples.clip(-32768, 32767).astype(np.int16), RATE)


def _text(words: int, rng: np.random.Generator) -> str:
    return " ".join(rng.choice(WORDS, words))


def _image(side: int, rng: np.random.Generator) -> bytes:
    """A PNG file of colored squares, which differ from image to image."""
    from PIL import Image

    squares = rng.integers(0, 256, (8, 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(squares).resize((side, side), Image.Resampling.NEAREST).save(file, "PNG")
    return file.getvalue()


# ---------------------------------------------------------------------- manifests

AUDIO_KEYS = ("audio", "audio_filepath", "audio_path", "path")


def of_manifest(form: Form, kind: str, path: Path) -> Iterator[Ask]:
    """Of JSON lines: {"audio": FILE, "text": REFERENCE}, or {"prompt": TEXT, "reference": TEXT}
    with "image": FILE where there is one. Relative paths begin at the manifest's folder.

    Raises ConfigurationError.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield _of_entry(form, kind, path.parent, msgspec.json.decode(line, type=dict[str, Any]))
        except (msgspec.DecodeError, OSError, KeyError, ValueError) as error:
            raise ConfigurationError(f"{path}, line {number}: {error}") from None


def _of_entry(form: Form, kind: str, folder: Path, entry: dict[str, Any]) -> Ask:
    if kind == "audio":
        name = next((entry[key] for key in AUDIO_KEYS if key in entry), None)
        if name is None:
            raise ValueError(f"it has none of {', '.join(AUDIO_KEYS)}")
        content = (folder / name).expanduser().read_bytes()
        return form.ask_of_sound(content, _seconds(content), entry.get("text"))
    prompt, reference = entry.get("prompt", entry.get("text")), entry.get("reference")
    if not isinstance(prompt, str):
        raise ValueError("it has neither 'prompt' nor 'text'")
    if kind == "image":
        image = (folder / entry["image"]).expanduser().read_bytes()
        return form.ask_of_image(image, prompt, reference, entry.get("max_tokens"))
    return form.ask_of_text(prompt, reference, entry.get("max_tokens"))


def _seconds(content: bytes) -> float:
    """Of the recording in a file."""
    from antiphon.config.errors import AudioError
    from antiphon.inputs.audio.forms import load_audio

    try:
        return len(load_audio(content, RATE)) / RATE
    except AudioError as error:
        raise ValueError(str(error)) from None
