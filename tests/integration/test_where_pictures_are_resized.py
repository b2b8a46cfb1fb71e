"""Whole engines whose pictures are resized on the host and on the encoder's device: transformers'
answers in chats, prompts and encodes, however the option is given."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from http_server import running_server
from paths import EXAMPLES
from PIL import Image
from tiny_mllama import make_mllama
from tiny_readers import make_reader
from tiny_vision import make
from tiny_vlms import VLMS, data_uri, make_vlm, picture
from transformers import SiglipImageProcessorPil
from typer.testing import CliRunner
from vlm_oracle import answer

from antiphon import Engine, SamplingParams
from antiphon.cli.app import app
from antiphon.config.errors import ConfigurationError
from antiphon.config.options import ModelOptions
from antiphon.examples.qwen_shapes.evaluate import exact, held_out
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.processor import InputProcessor
from antiphon.serve.command import Plan

SHAPES = EXAMPLES / "qwen_shapes" / "model"
WAYS = ("host", "device")
OUTPUT = 8
PARAMS = SamplingParams(max_tokens=OUTPUT, logprobs=0, ignore_eos=True)
FAST = [("qwen2_5_vl", "host"), ("qwen2_5_vl", "device")]
UNKNOWN = ("llava_next",)  # whose rule of tiles is not known


def engine_of(folder: Path, **options: Any) -> Engine:
    return Engine(str(folder), ray=False, device="cpu", max_num_seqs=4, **options)


def chat(*images: Image.Image, text: str = "w7 w8 w9") -> list[dict[str, Any]]:
    """One message: `text` behind each of `images`."""
    written = {"type": "text", "text": text}
    pictures = [part for image in images for part in ({"type": "image", "image": image}, written)]
    return [{"role": "user", "content": pictures or [written]}]


def chats() -> list[list[dict[str, Any]]]:
    """About one, two and no pictures, of mixed sizes; one picture in two of them."""
    first, second, third = picture(1, 40, 24), picture(2, 24, 24), picture(3, 30, 66)
    return [chat(first), chat(third, second), chat(), chat(second, text="w50 w51")]


@pytest.mark.parametrize(
    ("name", "way"),
    [
        pytest.param(name, way, marks=() if (name, way) in FAST else pytest.mark.slow)
        for name in VLMS
        if name not in UNKNOWN
        for way in WAYS
    ],
)
def test_chats_and_prompts_are_answered_as_by_transformers(
    name: str, way: str, tmp_path: Path
) -> None:
    model = make_vlm(name, tmp_path)
    host = InputProcessor(ModelConfig.load(ModelOptions(str(tmp_path))))
    prompt = {"prompt": "w5 <image> w6", "multi_modal_data": {"image": picture(2, 24, 24)}}
    asked = [*({"messages": messages} for messages in chats()), prompt]
    with engine_of(tmp_path, image_resizing=way) as engine:
        sent = engine._async.inputs.prepare(asked[0], PARAMS).inputs[0].payload
        outputs = engine.chat(chats(), PARAMS, use_tqdm=False)
        outputs += engine.generate([asked[-1], {"messages": chats()[0]}], PARAMS, use_tqdm=False)
    assert sent.dtype == (np.uint8 if way == "device" else np.float32)
    for prompt, output in zip([*asked, asked[0]], outputs, strict=True):
        prepared = host.prepare(prompt, PARAMS)
        tokens, logprobs = answer(model, prepared, OUTPUT)
        assert output.prompt_token_ids == prepared.prompt_token_ids
        (got,) = output.outputs
        assert got.token_ids == tokens
        own = [entry[token].logprob for entry, token in zip(got.logprobs, tokens, strict=True)]
        np.testing.assert_allclose(own, logprobs, atol=1e-3)


def test_a_picture_is_encoded_once_in_a_chat_of_two_turns_on_the_device() -> None:
    """By the shipped model, whose answers are those of the host."""
    asked = held_out(3)[2]
    turns, texts = asked.chat(asked.question), []
    with engine_of(SHAPES, image_resizing="device") as engine:
        for question in ("How many shapes are there?", None):
            (output,) = engine.chat(turns, use_tqdm=False)
            texts.append(output.outputs[0].text)
            turns += [{"role": "assistant", "content": texts[-1]}]
            turns += [{"role": "user", "content": question}]
        assert engine.stats()["encodes"] == 1
    with engine_of(SHAPES, image_resizing="host") as engine:
        outputs = engine.chat([turns[:1], turns[:3]], use_tqdm=False)
    assert [output.outputs[0].text for output in outputs] == texts
    assert texts[0] == asked.answer


@pytest.mark.slow
def test_the_shipped_model_scores_the_same() -> None:
    shares = []
    for way in WAYS:
        with engine_of(SHAPES, image_resizing=way) as engine:
            shares.append(exact(engine, 100))
    assert shares[0] == shares[1]
    assert shares[0]["all"] >= 0.95


def test_readers_and_encoders_alone(tmp_path: Path) -> None:
    """A decoder that attends to an image, and an encoder without one."""
    images = [picture(1, 40, 24), picture(2, 24, 24), picture(3, 30, 66)]
    prompts = [{"encoder_prompt": {"multi_modal_data": {"image": image}}} for image in images]
    make_reader("trocr", tmp_path / "trocr")
    make("siglip", tmp_path / "siglip")
    size = {"height": 24, "width": 24}
    SiglipImageProcessorPil(size=size).save_pretrained(tmp_path / "siglip")
    answers, states = [], []
    for way in WAYS:
        with engine_of(tmp_path / "trocr", image_resizing=way) as engine:
            outputs = engine.generate(prompts, PARAMS, use_tqdm=False)
            answers.append([output.outputs[0] for output in outputs])
        with engine_of(tmp_path / "siglip", image_resizing=way) as engine:
            states.append(np.stack(engine.encode(images)))
    assert [one.token_ids for one in answers[0]] == [one.token_ids for one in answers[1]]
    for one, other in zip(*answers, strict=True):
        assert one.cumulative_logprob == pytest.approx(other.cumulative_logprob, abs=1e-3)
    np.testing.assert_allclose(states[0], states[1], atol=1e-4 * np.abs(states[0]).max())


def test_checkpoints_whose_rules_are_not_known(tmp_path: Path) -> None:
    """Refused before an engine starts, if the device is asked for by name."""
    make_mllama(tmp_path)
    with pytest.raises(ConfigurationError, match=r"'device' is not possible .*Give 'host' or"):
        engine_of(tmp_path, image_resizing="device")
    with engine_of(tmp_path, image_resizing="auto") as engine:
        (output,) = engine.chat(chat(picture(1)), PARAMS, use_tqdm=False)
        assert len(output.outputs[0].token_ids) == OUTPUT
    with pytest.raises(ConfigurationError, match=r"image_resizing.*auto, host, device"):
        engine_of(tmp_path, image_resizing="gpu")


@pytest.mark.parametrize("typed", ["--image-resizing device", "-o image_resizing=device"])
def test_the_flag_of_the_command_line(typed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = typed_plan(f"serve {SHAPES} --no-ray --device cpu {typed}", monkeypatch)
    assert plan.engine["image_resizing"] == "device"
    wrong = CliRunner().invoke(app, f"serve {SHAPES} --no-ray --image-resizing gpu")
    assert wrong.exit_code != 0
    assert "auto, host, device" in re.sub(r"\s+", " ", wrong.output)


def typed_plan(command: str, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """What a command that serves would do."""
    plans: list[Plan] = []
    monkeypatch.setattr("antiphon.serve.command.run", plans.append)
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    (plan,) = plans
    return plan


def test_chats_over_http(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a server that was told on the command line."""
    plan = typed_plan(f"serve sees={SHAPES} --no-ray --image-resizing device", monkeypatch)
    asked = held_out(3)
    with (
        running_server(plan.models, options=plan.engine) as running,
        openai.OpenAI(base_url=f"{running.url}/v1", api_key="any", max_retries=0) as client,
    ):
        processor = running.service.models["sees"].engine.inputs.images.processor
        assert processor.encoder_input(asked[0].picture).payload.dtype == np.uint8
        for each in asked:
            parts: Any = [
                {"type": "image_url", "image_url": {"url": data_uri(each.picture)}},
                {"type": "text", "text": each.question},
            ]
            reply = client.chat.completions.create(
                model="sees", messages=[{"role": "user", "content": parts}]
            )
            assert reply.choices[0].message.content == each.answer
