"""What an engine tells of its requests: times in their order, each end once, workers' counters."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from antiphon import AsyncEngine, Engine, SamplingParams
from antiphon.config.errors import RequestExpired
from antiphon.engine.ends import failure_of


def test_ends_times_and_counters(t5_folder: Path) -> None:
    ends: list[tuple[Any, Any]] = []

    async def scenario() -> dict[str, int]:
        async with AsyncEngine(str(t5_folder), ray=False, max_num_seqs=2) as engine:
            engine.requests.on_end = lambda opened, future: ends.append((opened, future))
            await asyncio.gather(*(engine.generate(f"in words: {n}") for n in (7, 42, 7)))
            endless = SamplingParams(ignore_eos=True, max_tokens=500)
            async for _ in engine.stream("in words: 9", endless):
                break
            with pytest.raises(RequestExpired):
                await engine.generate("in words: 8", endless, timeout=0.05)
            await asyncio.sleep(0)
            return await engine.stats()

    stats = asyncio.run(scenario())
    assert len(ends) == 5
    for opened, future in ends[:3]:
        times = future.result().metrics
        encoded = times.encoded_at or times.arrived_at
        assert times.arrived_at <= encoded + 1e-3
        assert encoded <= times.admitted_at <= times.first_token_at <= times.finished_at
        assert opened.route.decoder == "decoder-0"
    failures = [failure_of(future) for _, future in ends]
    assert failures == [None, None, None, "RequestCancelled", "RequestExpired"]
    assert stats["encoder_inputs"] >= stats["encoder_batches"] >= 1
    assert stats["encoder_busy_us"] > 0
    assert stats["encoder_open_tokens"] == 0
    kinds = ("self", "cross", "cached", "free")
    assert sum(stats[f"kv_pages_{kind}"] for kind in kinds) == stats["kv_pages"]
    assert stats["kv_pages_cached"] > 0
    assert "hidden_state_pages" not in stats


def test_pages_of_hidden_states(t5_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They are counted apart, and logged when the engine is ready. An input stays cached."""
    caplog.set_level(logging.INFO, "antiphon.engine.life")
    with Engine(str(t5_folder), ray=False, max_num_seqs=2, cross_attention="latent") as engine:
        before = engine.stats()
        engine.generate(["in words: 7", "in words: 42", "in words: 7"])
        after = engine.stats()
    pages, kinds = after["hidden_state_pages"], ("used", "cached", "free")
    assert f" KV pages of 16 tokens, {pages} pages of hidden states, " in caplog.text
    assert [before[f"hidden_state_pages_{kind}"] for kind in kinds] == [0, 0, pages]
    assert [after[f"hidden_state_pages_{kind}"] for kind in kinds] == [0, 2, pages - 2]
    assert after["hidden_state_pages_available"] == pages
    assert after["kv_pages_cross"] == after["kv_pages_cached"] == 0
