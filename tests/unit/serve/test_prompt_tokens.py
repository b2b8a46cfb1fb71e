"""Prompts are checked within the time of their request, and their memory is held until its end."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from antiphon.config.errors import RequestExpired
from antiphon.config.options import ModelOptions
from antiphon.config.sampling import SamplingParams
from antiphon.engine.deadline import Deadline
from antiphon.engine.preparation import Preparation
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.processor import InputProcessor
from antiphon.serve.errors import ApiError
from antiphon.serve.prompt_tokens import call_options, checked

BODY: Any = SimpleNamespace(source_language=None, target_language=None, priority=None)
PARAMS = SamplingParams()
SOUND = {"multi_modal_data": {"audio": np.zeros(1000, np.float32)}}


@pytest.fixture(scope="module")
def inputs(whisper_folder: Path) -> InputProcessor:
    return InputProcessor(ModelConfig.load(ModelOptions(str(whisper_folder))))


def served(inputs: InputProcessor) -> Any:
    preparation = Preparation(inputs)
    preparation.start()
    return SimpleNamespace(engine=SimpleNamespace(preparation=preparation, inputs=inputs))


def test_waiting_for_memory_ends_at_the_deadline(inputs: InputProcessor) -> None:
    async def run() -> None:
        model = served(inputs)
        memory = model.engine.preparation.memory
        async with memory.hold(memory.limit):
            with pytest.raises(RequestExpired, match=r"0\.01 s"):
                async with checked(model, [SOUND], PARAMS, BODY, "prompt", Deadline(0.01)):
                    pass
        assert memory.held == 0
        model.engine.preparation.stop()

    asyncio.run(run())


def test_the_memory_of_prompts_is_held_once_until_their_request_ends(
    inputs: InputProcessor,
) -> None:
    async def run() -> None:
        model = served(inputs)
        preparation, deadline = model.engine.preparation, Deadline(10.0)
        async with checked(model, [SOUND, SOUND], PARAMS, BODY, "prompt", deadline) as ready:
            assert preparation.memory.held == 8000
            prepared = ready[0].prepared
            async with preparation.memory.hold(0) as held:
                same = await preparation.prepared(held, prepared, PARAMS, (None, None))
                assert same is prepared
                assert preparation.memory.held == 8000
            assert 9.0 < call_options(BODY, deadline)["timeout"] < 10.0
        assert preparation.memory.held == 0
        preparation.stop()

    asyncio.run(run())


def test_a_wrong_prompt_holds_nothing(inputs: InputProcessor) -> None:
    async def run() -> None:
        model = served(inputs)
        with pytest.raises(ApiError, match="this model listens"):
            async with checked(model, [SOUND, "a"], PARAMS, BODY, "prompt", Deadline(10.0)):
                pass
        assert model.engine.preparation.memory.held == 0
        model.engine.preparation.stop()

    asyncio.run(run())
