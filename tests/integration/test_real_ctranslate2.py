"""faster-whisper's own folders: the same text as the transformers folders of the same weights."""

import pytest
import real_weights

from antiphon import Engine
from antiphon.config.options import ModelOptions
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.processor import InputProcessor

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize("name", ["tiny.en", "base"])
def test_published_folders_say_what_the_transformers_folders_say(name: str) -> None:
    """The latter were made from them by code of the tests' own."""
    theirs, ours = (
        ModelConfig.load(ModelOptions(str(folder)))
        for folder in (real_weights.ctranslate2(name), real_weights.model(name))
    )
    assert theirs.encoder == ours.encoder
    assert theirs.decoder == ours.decoder
    assert theirs.defaults == ours.defaults
    left, right = InputProcessor(theirs), InputProcessor(ours)
    assert left.whisper is not None
    assert right.whisper is not None
    assert vars(left.whisper) == vars(right.whisper)
    text = " Fifteen birds, in five firtrees: 15 Vögel!"
    assert left.tokenizer(text).input_ids == right.tokenizer(text).input_ids


def test_tiny_en_is_transcribed_from_its_folder() -> None:
    recordings = [path for path in real_weights.recordings() if path.suffix == ".wav"][:4]
    texts = []
    for folder in (real_weights.ctranslate2("tiny.en"), real_weights.model("tiny.en")):
        with Engine(str(folder), ray=False) as engine:
            texts.append([result.text for result in engine.transcribe_all(recordings)])
    assert texts[0] == texts[1]
    assert all(texts[0])
