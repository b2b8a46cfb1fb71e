"""The shipped vision-language model answers questions about pictures that training never saw."""

import numpy as np
import pytest
from paths import EXAMPLES

from antiphon import AsyncEngine, Engine, SamplingParams
from antiphon.config.errors import PromptError
from antiphon.examples.qwen_shapes.evaluate import HELD_OUT, exact, held_out
from antiphon.inputs.prepared import tokens_beside_prompt

MODEL = EXAMPLES / "qwen_shapes" / "model"


@pytest.mark.parametrize("count", [42, pytest.param(HELD_OUT, marks=pytest.mark.slow)])
def test_answers_are_exact(count: int) -> None:
    with Engine(str(MODEL), ray=False, device="cpu") as engine:
        shares = exact(engine, count)
    assert shares["all"] >= 0.95
    assert min(shares.values()) >= 0.8


def test_a_chat_about_one_picture_encodes_it_once() -> None:
    asked = held_out(1)[0]
    with Engine(str(MODEL), ray=False, device="cpu") as engine:
        chat = asked.chat(asked.question)
        (first,) = engine.chat(chat, use_tqdm=False)
        chat += [{"role": "assistant", "content": first.outputs[0].text}]
        chat += [{"role": "user", "content": "How many shapes are there?"}]
        (second,) = engine.chat(chat, use_tqdm=False)
        assert second.outputs[0].text
        assert engine.stats()["encodes"] == 1


def test_tokens_of_a_picture_are_counted_once_and_sound_is_refused() -> None:
    """The picture's tokens stand in the prompt, as placeholders."""
    asked = held_out(1)[0]
    inputs = AsyncEngine(str(MODEL), ray=False).inputs
    prepared = inputs.prepare({"messages": asked.chat(asked.question)}, SamplingParams())
    assert inputs.images is not None
    assert prepared.prompt_token_ids is not None
    (picture,) = prepared.inputs
    places = prepared.prompt_token_ids.count(inputs.images.placeholder_id)
    assert places == picture.num_tokens > 1
    assert tokens_beside_prompt(prepared.inputs) == 0
    sound = {"prompt": "What?", "multi_modal_data": {"audio": np.zeros(16_000, np.float32)}}
    with pytest.raises(PromptError, match="no audio"):
        inputs.prepare(sound, SamplingParams())


def test_the_checkpoint_is_small() -> None:
    assert sum(path.stat().st_size for path in MODEL.iterdir()) < 8 * 2**20  # bytes
