"""Cross-attention on hidden states takes less memory, and is refused where it can't work."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plain_engine import PlainEngine
from tiny_mllama import make_mllama
from tiny_models import WHISPER_SHAPE
from tiny_t5gemma import make_t5gemma

from antiphon.config.errors import AttentionBackendError, ConfigurationError
from antiphon.config.options import resolve
from antiphon.decoder import loading
from antiphon.decoder.room import bytes_of_sequence, page_counts
from antiphon.decoder.runner import DecoderRunner
from antiphon.engine.async_engine import AsyncEngine
from antiphon.families.checkpoint import ModelConfig
from antiphon.runtime.device import Target
from antiphon.scheduler.request import RequestState

Folder = Callable[[str], Path]
LATENT: dict[str, Any] = {"cross_attention": "latent"}
PAGE = 4


def test_a_clip_takes_its_states_once(folder_of: Folder) -> None:
    """50 tokens of 48 features, in 13 pages. Keys and values would be 3 layers of both."""
    engine = PlainEngine(folder_of("whisper"), **LATENT, kv_page_size=PAGE, max_num_seqs=2)
    pool, tokens = engine.replica.runner.pool, WHISPER_SHAPE["max_source_positions"]
    assert pool.states is not None
    assert pool.states.num_pages == 2 * 2 * 13
    assert pool.num_pages == 2 * 2 * (WHISPER_SHAPE["max_target_positions"] // PAGE)
    assert pool.states.pages[0].nbytes * 13 == 52 * 48 * 4
    plain = PlainEngine(folder_of("whisper"), kv_page_size=PAGE, max_num_seqs=2)
    page = sum(layer[:, 0].nbytes for layer in plain.replica.runner.pool.layers)
    assert page == 2 * 3 * pool.states.pages[0].nbytes
    sound = np.zeros(100, np.float32)
    engine.submit(engine.request(sound, [61, 63], 2))
    engine.run()
    pages = engine.replica.scheduler.pages
    assert pages.cross.num_by_kind["cached"] == -(-tokens // PAGE)
    assert pages.num_by_kind["cached"] == 0
    submitted = engine.submit(engine.request(sound, [61, 63], 2))
    engine.step()
    assert not engine.unencoded, "its states are in the pages"
    assert engine.run()[submitted].state is RequestState.DONE


def test_memory_is_for_pages_of_both_kinds(folder_of: Folder) -> None:
    folder = folder_of("whisper")
    gib = 0.001
    config = resolve(str(folder), {"device": "cpu", "kv_cache_memory_gib": gib, **LATENT})
    model = ModelConfig.load(config.model)
    target = Target.resolve(config.model, model.raw, model.family)
    counts = page_counts(model, config, target)
    sequence = sum(bytes_of_sequence(model, config, target))
    most = int(gib * 2**30 / sequence)
    assert 1 < most < config.scheduler.max_num_seqs
    own, cross = 80 // 16, 4
    assert most * own <= counts.kv < (most + 1) * own
    assert most * cross <= counts.states < (most + 1) * cross
    for options in ({"kv_cache_memory_gib": 1e-5}, {"num_kv_pages": 10**6}):
        config = resolve(str(folder), {"device": "cpu", **options, **LATENT})
        with pytest.raises(ConfigurationError, match=r"for hidden states; one full sequence needs"):
            DecoderRunner(model, config)


# ---------------------------------------------------------------------- what it can't


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "t5gemma": ({}, "its keys have a bias"),
    "llama": ({}, "attends to its own tokens alone"),
    "mllama": ({}, "a norm stands between"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_weights_are_read(
    name: str, folder_of: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, reason = REFUSED[name]
    monkeypatch.setattr(loading, "load_part", lambda *_: pytest.fail("weights are read"))
    made = {"mllama": make_mllama, "t5gemma": partial(make_t5gemma, attention_bias=True)}
    if name in made:
        made[name](tmp_path)
    folder = tmp_path if name in made else folder_of(name)
    config = resolve(str(folder), {"device": "cpu", **LATENT, **options})
    with pytest.raises(ConfigurationError, match=f"cross_attention='latent'.*{reason}"):
        DecoderRunner(ModelConfig.load(config.model), config)


def test_auto_is_keys_and_values() -> None:
    assert not resolve("any", {}).decoder.attends_to_states
    assert not resolve("any", {"cross_attention": "kv"}).decoder.attends_to_states
    with pytest.raises(ConfigurationError, match="cross_attention"):
        resolve("any", {"cross_attention": "states"})


def test_an_engine_says_so_at_once(folder_of: Folder) -> None:
    with pytest.raises(ConfigurationError, match="attends to its own tokens alone"):
        AsyncEngine(str(folder_of("llama")), device="cpu", **LATENT)


def test_backends_that_cannot_are_refused_by_name(folder_of: Folder) -> None:
    options = {"device": "cpu", "decoder_attention_backend": "flex", **LATENT}
    config = resolve(str(folder_of("t5")), options)
    with pytest.raises(AttentionBackendError, match=r"Valid here: torch_sdpa, cpu_paged"):
        DecoderRunner(ModelConfig.load(config.model), config)
