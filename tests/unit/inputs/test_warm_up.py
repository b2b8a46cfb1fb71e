"""What a first call would wait for has been done once a frontend is warm."""

import logging
from pathlib import Path
from typing import Any

import pytest
from paths import QWEN, TROCR, WHISPER
from PIL import Image
from transformers.utils import chat_template_utils

from antiphon.config.options import ModelOptions
from antiphon.config.sampling import SamplingParams
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.audio import files
from antiphon.inputs.encoder_inputs import EncoderInputs
from antiphon.inputs.processor import InputProcessor
from antiphon.inputs.warm_up import warm_up

PICTURE = Image.new("RGB", (60, 40))
PARTS = [{"type": "image", "image": PICTURE}, {"type": "text", "text": "How many?"}]
CHAT = {"messages": [{"role": "user", "content": PARTS}]}


def frontend(folder: Path) -> tuple[InputProcessor, EncoderInputs]:
    inputs = InputProcessor(ModelConfig.load(ModelOptions(str(folder), device="cpu")))
    return inputs, EncoderInputs(inputs)


def test_a_first_chat_finds_its_template_compiled() -> None:
    inputs, encoder_inputs = frontend(QWEN)
    compiled = chat_template_utils._compile_jinja_template
    compiled.cache_clear()
    warm_up(inputs, encoder_inputs)
    before = compiled.cache_info().misses
    assert before == 1
    inputs.prepare(CHAT, SamplingParams())
    assert compiled.cache_info().misses == before


@pytest.mark.parametrize("folder", [QWEN, TROCR], ids=lambda folder: folder.parent.name)
def test_files_of_pictures_are_read_before_the_first_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which has Pillow import all that it knows of files."""
    opened: list[str | None] = []
    whole = Image.open

    def seen(*args: Any, **options: Any) -> Image.Image:
        image = whole(*args, **options)
        opened.append(image.format)
        return image

    monkeypatch.setattr(Image, "open", seen)
    warm_up(*frontend(folder))
    assert opened == ["PNG", "JPEG"]


def test_a_recording_is_read_before_the_first_one(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, encoder_inputs = frontend(WHISPER)
    lengths: list[int] = []
    read = inputs.read_sound
    monkeypatch.setattr(
        inputs, "read_sound", lambda source: lengths.append(len(read(source).samples))
    )
    opened, open_media = list[Any](), files.open_media
    monkeypatch.setattr(files, "open_media", lambda file: opened.append(file) or open_media(file))
    warm_up(inputs, encoder_inputs)
    assert lengths == [1600]
    assert len(opened) == 1, "plain WAV would leave FFmpeg unimported"


def test_a_template_that_refuses_a_chat_is_said_and_does_no_harm(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, encoder_inputs = frontend(QWEN)
    monkeypatch.setattr(inputs.chat, "_template", "{{ raise_exception('system first') }}")
    with caplog.at_level(logging.INFO, "antiphon"):
        warm_up(inputs, encoder_inputs)
    assert "refuses this chat: TemplateError: system first" in caplog.text
