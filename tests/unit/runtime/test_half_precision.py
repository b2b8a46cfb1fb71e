"""Families whose activations leave a format: what `dtype='auto'` chooses, what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from oracle import mixed_inputs, oracle
from plain_engine import PlainEngine
from transformers import PreTrainedModel, T5Config, T5ForConditionalGeneration

from antiphon.config.errors import ConfigurationError
from antiphon.config.options import ModelOptions
from antiphon.families.registry import families
from antiphon.runtime.device import Target

NARROW = {name for name, family in families().items() if family.too_narrow}
FLOAT16_LARGEST = 65504


def resolve(architecture: str, stored: str | None, **options: Any) -> torch.dtype:
    return Target.resolve(
        ModelOptions(**options), {"dtype": stored}, families()[architecture]
    ).dtype


@pytest.mark.parametrize(
    ("capability", "half"), [((9, 0), torch.bfloat16), ((7, 5), torch.float16)]
)
@pytest.mark.parametrize("architecture", families())
@pytest.mark.parametrize("stored", ["float16", "bfloat16", "float32", None])
def test_auto_on_a_gpu(
    architecture: str,
    stored: str | None,
    capability: tuple[int, int],
    half: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    holds = architecture not in NARROW
    wanted = torch.float16 if stored == "float16" and holds else half
    if wanted == torch.float16 and not holds:
        wanted = torch.float32
    assert resolve(architecture, stored) == wanted


@pytest.mark.parametrize("architecture", families())
def test_float16_that_was_asked_for(architecture: str) -> None:
    if architecture in NARROW:
        with pytest.raises(
            ConfigurationError,
            match=r"can't hold the activations.*use dtype='bfloat16' or 'float32'",
        ):
            resolve(architecture, None, dtype="float16", device="cpu")
    else:
        assert resolve(architecture, None, dtype="float16", device="cpu") == torch.float16
    assert resolve(architecture, "float16", device="cpu") == torch.float32


def test_which_families_float16_is_too_narrow_for() -> None:
    assert {families()[name].name for name in NARROW} == {"t5", "mt5", "pegasus", "t5gemma"}


@pytest.fixture(scope="module")
def loud_t5(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PreTrainedModel]:
    """A T5 whose feed-forward layers pass float16's largest number, as published ones do."""
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("loud")
    model = T5ForConditionalGeneration(
        T5Config(**tiny_models.T5_SHAPE, decoder_start_token_id=0)
    ).eval()
    tiny_models.liven_text_model(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".wi." in name or ".wo." in name:
                parameter.mul_(300.0)
    model.save_pretrained(folder)
    return folder, model


def test_activations_beyond_float16_give_the_right_text(
    loud_t5: tuple[Path, PreTrainedModel],
) -> None:
    folder, model = loud_t5
    largest: list[float] = []
    for name, module in model.named_modules():
        if name.endswith(".wo"):
            module.register_forward_hook(
                lambda _module, _given, out: largest.append(out.abs().max().item())
            )
    with pytest.raises(ConfigurationError, match="float16"):
        PlainEngine(folder, dtype="float16", max_model_len=40)
    exact, half = (
        PlainEngine(folder, dtype=dtype, max_model_len=40) for dtype in ("auto", "bfloat16")
    )
    inputs = mixed_inputs(6, tiny_models.VOCAB, seed=8)
    for ids, length in inputs:
        exact.submit(exact.request(ids, [0], length))
        hidden = half.encoder.encode([ids]).hidden
        wanted = exact.encoder.encode([ids]).hidden
        assert hidden.isfinite().all()
        assert torch.nn.functional.cosine_similarity(hidden.float(), wanted, dim=1).min() > 0.99
    finished = exact.run()
    for i, (ids, length) in enumerate(inputs):
        tokens, _ = oracle(
            model, torch.from_numpy(ids[None].astype(np.int64)), [0], length, eos_token_id=None
        )
        assert finished[i].token_ids == tokens[: len(finished[i].token_ids)]
    assert max(largest) > FLOAT16_LARGEST
