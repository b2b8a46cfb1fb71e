"""InternVL in the format of its authors gives the tokens that transformers gives for its own."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from prompt_states import continuation
from tiny_vlms import make_internvl_chat, picture

from antiphon import Engine
from antiphon.config.errors import UnsupportedModelError
from antiphon.config.options import ModelOptions
from antiphon.config.sampling import SamplingParams
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.images.pixels import Pixels

OUTPUT = 12


def test_chats_equal_transformers(tmp_path: Path) -> None:
    model = make_internvl_chat(tmp_path)
    chats = []
    for seed, sizes in enumerate([[(40, 24)], [(90, 30), (28, 28)], []]):
        images = [{"type": "image", "image": picture(seed, *size)} for size in sizes]
        words = " ".join(f"w{id_}" for id_ in np.random.default_rng(seed).integers(5, 90, 6))
        chats.append([{"role": "user", "content": [*images, {"type": "text", "text": words}]}])
    params = SamplingParams(max_tokens=OUTPUT, ignore_eos=True)
    with Engine(str(tmp_path), ray=False, device="cpu") as engine:
        outputs = engine.chat(chats, params, use_tqdm=False)
        inputs = engine._async.inputs
    tiles = []
    for chat, output in zip(chats, outputs, strict=True):
        prepared = inputs.prepare({"messages": chat}, SamplingParams())
        ids = torch.tensor([prepared.prompt_token_ids])
        values = [Pixels.unpacked(part.payload).values for part in prepared.inputs]
        tiles.append([len(image) for image in values])
        images = {"pixel_values": torch.from_numpy(np.concatenate(values))} if values else {}
        mask = torch.ones_like(ids)
        tokens, _ = continuation(model, OUTPUT, input_ids=ids, attention_mask=mask, **images)
        assert output.outputs[0].token_ids == tokens
    assert tiles == [[3], [4, 1], []]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ps_version": "v1"}, "ps_version='v1': only 'v2' is supported"),
        ({"llm_config": {"model_type": "internlm2"}}, "llm_config has model_type 'internlm2'"),
    ],
)
def test_older_models_are_refused(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    config = {
        "architectures": ["InternVLChatModel"], "llm_config": {"model_type": "qwen2"},
        "vision_config": {"image_size": 28, "patch_size": 7},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(UnsupportedModelError, match=message):
        ModelConfig.load(ModelOptions(str(tmp_path)))
