"""Lengths that no cache holds are refused before weights are read, and before tables are made for
them."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from plain_engine import PlainEngine
from tiny_mllama import make_mllama
from tiny_vlms import make_vlm

from antiphon.actors.colocated_actor import ColocatedActor
from antiphon.config.errors import ConfigurationError
from antiphon.config.options import resolve
from antiphon.decoder import loading
from antiphon.decoder.room import bytes_of_sequence, bytes_per_page, page_counts
from antiphon.decoder.runner import DecoderRunner
from antiphon.encoder import runner as encoder_runner
from antiphon.engine.async_engine import AsyncEngine
from antiphon.families.checkpoint import ModelConfig
from antiphon.runtime.device import Target
from antiphon.scheduler.request import Incarnation

TOO_LONG = [
    {"max_model_len": 10**7},
    {"max_encoder_len": 10**7},
    {"max_model_len": 10**9, "kv_cache_memory_gib": 100.0},
]
REFUSAL = r"of KV cache hold \d+ pages of \d+ bytes; one full sequence needs \d+"


@pytest.mark.parametrize("options", TOO_LONG, ids=str)
def test_an_engine_says_so_at_once(options: dict[str, Any], t5_folder: Path) -> None:
    AsyncEngine(str(t5_folder), device="cpu")  # imports what it needs
    began = time.process_time()
    with pytest.raises(ConfigurationError, match=REFUSAL):
        AsyncEngine(str(t5_folder), device="cpu", **options)
    assert time.process_time() - began < 1.0


@pytest.mark.parametrize("options", TOO_LONG, ids=str)
def test_workers_say_so_before_they_read_weights(
    options: dict[str, Any], t5_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object) -> None:
        raise AssertionError("weights are read")

    monkeypatch.setattr(encoder_runner, "load_part", read)
    monkeypatch.setattr(loading, "load_part", read)
    config = resolve(str(t5_folder), {"device": "cpu", **options})
    model = ModelConfig.load(config.model)
    began = time.process_time()
    with pytest.raises(ConfigurationError, match=REFUSAL):
        DecoderRunner(model, config)
    with pytest.raises(ConfigurationError, match=REFUSAL):
        ColocatedActor().load(Incarnation("decoder-0", 0), model, config, None)
    assert time.process_time() - began < 1.0


def test_a_pool_that_holds_no_request_is_refused(whisper_folder: Path, t5_folder: Path) -> None:
    """Of equal windows, all of one; texts may be of one token."""
    config = resolve(str(whisper_folder), {"device": "cpu"})
    model, size = ModelConfig.load(config.model), config.decoder.kv_page_size
    least = 1 + -(-model.max_encoder_len // size)
    for device in ("cpu", "auto"):
        AsyncEngine(str(whisper_folder), device=device, num_kv_pages=least)
        with pytest.raises(ConfigurationError, match=rf"={least - 1} .* shortest needs {least} "):
            AsyncEngine(str(whisper_folder), device=device, num_kv_pages=least - 1)
    AsyncEngine(str(t5_folder), device="cpu", num_kv_pages=1)


def test_the_pool_has_as_many_pages_as_there_is_room_for(t5_folder: Path) -> None:
    engine = PlainEngine(
        t5_folder, max_num_seqs=2, max_model_len=40, max_encoder_len=50, kv_page_size=8
    )
    assert engine.replica.runner.pool.num_pages == 2 * 2 * (5 + 7)
    config = resolve(str(t5_folder), {"device": "cpu", "kv_cache_memory_gib": 0.01})
    model = ModelConfig.load(config.model)
    half = model.decoder
    page = 2 * half.num_layers * 16 * half.num_heads * half.head_dim * 4
    assert (
        page_counts(model, config, Target.resolve(config.model, model.raw, model.family)).kv
        == int(0.01 * 2**30) // page
    )


@pytest.mark.parametrize("make", [partial(make_vlm, "llava"), make_mllama])
def test_a_sequence_is_as_large_as_the_pool_takes_it_for(
    make: Callable[[Path], object], tmp_path: Path
) -> None:
    """Also where hidden states stand in prompts, or it attends to several inputs."""
    make(tmp_path)
    config = resolve(str(tmp_path), {"device": "cpu", "max_num_seqs": 3})
    model = ModelConfig.load(config.model)
    target = Target.resolve(config.model, model.raw, model.family)
    pages = page_counts(model, config, target).kv
    size = bytes_of_sequence(model, config, target).kv
    assert pages * bytes_per_page(model, config, target) == 2 * 3 * size


def test_a_colocated_worker_claims_its_threads_once(
    t5_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from antiphon.actors import colocated_actor

    claimed: list[float] = []
    monkeypatch.setattr(
        colocated_actor, "claim_resources", lambda config, gpu_share: claimed.append(gpu_share)
    )
    config = resolve(str(t5_folder), {"device": "cpu", "num_kv_pages": 200})
    info = ColocatedActor().load(
        Incarnation("decoder-0", 0), ModelConfig.load(config.model), config, None, 0.5
    )
    assert claimed == [0.5]
    assert info.keys() == {"encoder", "decoder"}
