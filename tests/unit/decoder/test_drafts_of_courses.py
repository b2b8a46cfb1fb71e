"""Drafts change no end of requests that are cancelled, forked, preempted and searched with beams,
in one process or on several ranks."""

from collections.abc import Callable
from pathlib import Path

import pytest
from first_layers import first_layers
from plain_engine import PlainEngine
from rank_scenarios import OPTIONS, PAGES, check_course, check_same_ends, play
from ranked_engine import RankedEngine

from antiphon.config.parallel import Parallel
from antiphon.decoder.rank_commands import Launch

Folder = Callable[[str], Path]
NGRAM = {"method": "ngram", "prompt_lookup_min": 1}
KINDS = {"t5": "text", "bart": "text", "llama": "decoder", "whisper": "audio"}


def has_drafted(engine: PlainEngine) -> bool:
    return engine.replica.scheduler.counters["accepted_draft_tokens"] > 0


@pytest.mark.parametrize(
    "family",
    ["bart", *(pytest.param(name, marks=pytest.mark.slow) for name in ("t5", "llama", "whisper"))],
)
def test_looked_up(family: str, folder_of: Folder) -> None:
    kind = KINDS[family]
    options = {**OPTIONS, "num_kv_pages": PAGES[kind]}
    wanted = play(PlainEngine(folder_of(family), **options), kind)
    engine = PlainEngine(folder_of(family), speculative_config=NGRAM, **options)
    check_same_ends(play(engine, kind), wanted)
    check_course(engine)
    assert engine.replica.scheduler.counters["draft_tokens"]


def test_a_draft_model(folder_of: Folder, tmp_path: Path) -> None:
    folder, options = folder_of("whisper"), {**OPTIONS, "num_kv_pages": PAGES["audio"]}
    first_layers(folder, tmp_path, 2)
    config = {"model": str(tmp_path), "num_speculative_tokens": 3}
    wanted = play(PlainEngine(folder, **options), "audio")
    engine = PlainEngine(folder, speculative_config=config, **options)
    check_same_ends(play(engine, "audio"), wanted)
    check_course(engine)
    assert has_drafted(engine)


@pytest.mark.parametrize("family", ["whisper", pytest.param("bart", marks=pytest.mark.slow)])
def test_ranks_that_share_layers(family: str, folder_of: Folder, tmp_path: Path) -> None:
    folder, kind = folder_of(family), KINDS[family]
    options = {**OPTIONS, "num_kv_pages": PAGES[kind]}
    config = NGRAM
    if family == "whisper":
        first_layers(folder, tmp_path, 2)
        config = {"model": str(tmp_path)}
    wanted = play(PlainEngine(folder, **options), kind)
    with RankedEngine(folder, Parallel(2), speculative_config=config, **options) as engine:
        check_same_ends(play(engine, kind), wanted)
        check_course(engine)
        assert engine.replica.scheduler.counters["draft_tokens"]
    assert any(
        command.plan.drafts is not None
        for command in engine.commands
        if isinstance(command, Launch)
    )
