"""The token that decoder prompts begin with: transformers' choice, or an error at the start."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel

from antiphon.config.errors import CheckpointError
from antiphon.config.options import ModelOptions
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.processor import InputProcessor
from antiphon.inputs.prompt_ids import start_id

START, FIRST = "decoder_start_token_id", "bos_token_id"
ABSENT = object()
Settings = dict[str, Any]
# Changes of config.json and of generation_config.json; None: there is no such file.
CASES: dict[str, tuple[Settings, Settings | None]] = {
    "stated": ({}, {}),
    "stated in config.json alone": ({}, None),
    "in neither file": ({START: ABSENT}, {START: ABSENT}),
    "in no file": ({START: ABSENT}, None),
    "null": ({}, {START: None}),
    "not in the generation config": ({}, {START: ABSENT}),
    "no first token either": (
        {START: ABSENT, FIRST: ABSENT},
        {START: ABSENT, FIRST: ABSENT},
    ),
    "no first token in any file": ({START: ABSENT, FIRST: ABSENT}, None),
}
FAMILIES = ("m2m100", "bart", "mbart", "plbart", "marian", "pegasus", "t5", "mt5")


def change(path: Path, changes: Settings) -> None:
    stated = {**json.loads(path.read_text()), **changes}
    path.write_text(
        json.dumps({name: value for name, value in stated.items() if value is not ABSENT})
    )


def transformers_start(model: PreTrainedModel) -> int | None:
    """None where it raises an error."""
    settings = model.generation_config
    call = partial(model.generate, torch.tensor([[5, 6, 2]]), max_new_tokens=1, num_beams=1)
    if settings.decoder_start_token_id is None and settings.bos_token_id is None:
        with pytest.raises(ValueError, match="`decoder_start_token_id` or `bos_token_id` has to"):
            call()
        return None
    return int(call()[0, 0])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_token_is_that_of_transformers(
    family: str, case: str, checkpoints: Callable[[str], tuple[Path, Any]], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoints(family)[0], folder)
    config, generation = CASES[case]
    change(folder / "config.json", config)
    if generation is None:
        (folder / "generation_config.json").unlink()
    else:
        change(folder / "generation_config.json", generation)
    expected = transformers_start(AutoModelForSeq2SeqLM.from_pretrained(folder))
    model = ModelConfig.load(ModelOptions(str(folder)))
    if expected is not None:
        assert start_id(model) == expected
    elif case == "not in the generation config":  # here config.json helps out
        assert start_id(model) == json.loads((folder / "config.json").read_text())[START]
    else:
        with pytest.raises(CheckpointError, match="neither decoder_start_token_id nor bos_token"):
            start_id(model)


def test_whisper_has_no_other_first_token(whisper_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(whisper_folder, folder)
    for name in ("config.json", "generation_config.json"):
        change(folder / name, {START: ABSENT})
    model = ModelConfig.load(ModelOptions(str(folder)))
    with pytest.raises(CheckpointError, match="generation config lacks decoder_start_token_id"):
        InputProcessor(model)
