"""What each rank would hold is what it holds once it is loaded; what is too much is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from first_layers import first_layers
from packed_checkpoints import write_packed
from ranked_encoder import ranked_encoder
from ranked_engine import RankedEngine

from antiphon.cli.describe import describe_model
from antiphon.cli.layout import Layout
from antiphon.config.errors import ConfigurationError
from antiphon.config.options import resolve
from antiphon.config.parallel import Parallel
from antiphon.decoder.runner import DecoderRunner
from antiphon.encoder.runner import EncoderRunner
from antiphon.engine.async_engine import AsyncEngine
from antiphon.engine.rank_shares import RankShare, rank_shares
from antiphon.families.checkpoint import ModelConfig
from antiphon.families.draft import with_draft
from antiphon.runtime.device import Target

SMALL: dict[str, Any] = {"max_num_seqs": 2, "max_model_len": 16, "kv_page_size": 4}
Folder = Callable[[str], tuple[Path, Any]]


def shares_of(folder: Path, layout: dict[str, Parallel], **options: Any) -> list[RankShare]:
    config = resolve(str(folder), {"device": "cpu", **SMALL, **options}, {})
    model = with_draft(ModelConfig.load(config.model), config)
    target = Target.resolve(config.model, model.raw, model.family)
    return list(rank_shares(model, config, target, layout))


def test_what_ranks_sum_through_is_told(checkpoints: Folder) -> None:
    folder = checkpoints("whisper")[0]
    layout = Layout({"encoder": Parallel(), "decoder": Parallel(2)}, colocated=False)
    config = resolve(str(folder), {"device": "cpu", "decoder_tensor_parallel_size": 2}, {})
    model = ModelConfig.load(config.model)

    def lines(device: str) -> list[str]:
        target = Target(torch.device(device), torch.float32)
        told = layout.lines(model, config, target, None, shows_cache=True)
        return [line for line in told if "sums over ranks" in line]

    assert lines("cpu") == []
    (line,) = lines("cuda")
    assert line.startswith("  sums over ranks: 97.3 MiB more on every rank of the decoder, where")


def held(runner: DecoderRunner | EncoderRunner) -> int:
    return sum(weight.nbytes for weight in runner.model.parameters())


LATENT = {"cross_attention": "latent"}
DECODERS = [
    *((name, parallel, {}) for name in ("bart", "t5_gated_untied", "whisper")
      for parallel in (Parallel(2), Parallel(2, 2))),
    ("whisper", Parallel(2), LATENT),
    ("bart", Parallel(1, 2), LATENT),
    ("t5_gated_untied", Parallel(2, 2), LATENT),
]  # fmt: skip


@pytest.mark.parametrize(("name", "parallel", "options"), DECODERS, ids=str)
def test_a_decoder_holds_what_was_reckoned(
    name: str, parallel: Parallel, options: dict[str, Any], checkpoints: Folder
) -> None:
    folder = checkpoints(name)[0]
    every = shares_of(folder, {"encoder": Parallel(), "decoder": parallel}, **options)
    shares = {share.rank: share for share in every if share.half == "decoder"}
    assert len(shares) == parallel.num_ranks
    with RankedEngine(folder, parallel, **SMALL, **options) as engine:
        runners = [thread.loaded.result().runner for thread in engine.followers]
        for runner in (engine.replica.runner, *runners):
            share, pool = shares[runner.ranks.rank], runner.pool
            assert share.weight_bytes == held(runner)
            kept = 0 if pool.queries is None else pool.queries.pages.nbytes
            page_bytes = (sum(pages.nbytes for pages in pool.layers) + kept) / (pool.num_pages + 1)
            assert share.cache is not None
            assert share.cache.page_bytes == page_bytes
            states = pool.states.pages[0].nbytes if pool.states is not None else 0
            assert share.cache.state_page_bytes == states
            assert bool(states) == bool(options)
            arena = runner.arena.states
            assert (share.cache.arena_tokens, share.cache.arena_bytes) == (len(arena), arena.nbytes)
            assert share.heads == runner.causal.spec.num_heads
            assert share.last_layer - share.first_layer + 1 == len(pool.layers)


@pytest.mark.parametrize("options", [{}, LATENT], ids=str)
@pytest.mark.parametrize("parallel", [Parallel(), Parallel(2)], ids=str)
def test_a_draft_model_is_held_as_reckoned(
    parallel: Parallel, options: dict[str, Any], checkpoints: Folder, tmp_path: Path
) -> None:
    folder = checkpoints("whisper")[0]
    first_layers(folder, tmp_path, 1)
    drafting = {**options, "speculative_config": {"model": str(tmp_path)}}
    layout = {"encoder": Parallel(), "decoder": parallel}
    shares = shares_of(folder, layout, **drafting)[1:]
    plain = shares_of(folder, layout, **options)[1:]
    with RankedEngine(folder, parallel, **SMALL, **drafting) as engine:
        runners = [thread.loaded.result().runner for thread in engine.followers]
        for runner in (engine.replica.runner, *runners):
            share, alone = (each[runner.ranks.rank] for each in (shares, plain))
            assert runner.draft is not None
            drafts = sum(weight.nbytes for weight in runner.draft.model.parameters())
            assert share.weight_bytes == held(runner) + drafts
            assert alone.weight_bytes == held(runner)
            assert share.cache is not None
            assert alone.cache is not None
            page_bytes = sum(pages.nbytes for pages in runner.pool.layers)
            kept = 0 if runner.pool.queries is None else runner.pool.queries.pages.nbytes
            assert share.cache.page_bytes == (page_bytes + kept) / (runner.pool.num_pages + 1)
            assert share.cache.page_bytes > alone.cache.page_bytes


def test_projections_that_are_absorbed_are_not_packed(checkpoints: Folder, tmp_path: Path) -> None:
    """Where cross-attention reads hidden states, its projections of keys and values are held as
    numbers: 2 x 48 x 48 in each of 3 layers. Their keys' bias is held by neither."""
    folder, model = checkpoints("bart")
    packed, dense = write_packed(folder, model, "llm_int8", tmp_path)
    layout = {"encoder": Parallel(), "decoder": Parallel()}

    def saved(**options: Any) -> int:
        quantized, full = (shares_of(each, layout, **options)[1] for each in (packed, dense))
        return full.weight_bytes - quantized.weight_bytes

    of_each_output = 48 * 4 - (48 + 4)  # float32, and int8 with a scale
    assert saved() - saved(**LATENT) == 3 * 2 * 48 * of_each_output


def test_an_encoder_holds_what_was_reckoned(checkpoints: Folder) -> None:
    folder = checkpoints("t5")[0]
    shares = shares_of(folder, {"encoder": Parallel(1, 2), "decoder": Parallel()})
    runners: list[EncoderRunner] = []
    with ranked_encoder(folder, Parallel(1, 2), runners.append):
        for runner in runners:
            assert shares[runner.ranks.rank].weight_bytes == held(runner)


def test_info_shows_every_rank(checkpoints: Folder) -> None:
    folder = str(checkpoints("whisper")[0])
    lines = describe_model(folder, {"device": "cpu", "decoder_tensor_parallel_size": 2})
    assert "layout: 1 encoder x tensor 1 x pipeline 1 = 1 ranks; 1 decoder x tensor 2 x " in lines
    assert "decoder rank 1: layers 0 to 2, 1 heads, 1 of keys and values, " in lines
    options = {"decoder_pipeline_parallel_size": 2, "placement": "colocated", "device": "cpu"}
    lines = describe_model(folder, options)
    assert "2 ranks, which share inputs; 1 decoder x tensor 1 x pipeline 2 = 2 ranks" in lines
    assert "colocated: on the same ranks" in lines
    assert "encoder rank 1: layers 0 to 1, " in lines
    assert "decoder rank 1: layers 2 to 2, " in lines
    with pytest.raises(ConfigurationError, match="at most 3"):
        describe_model(folder, {"decoder_tensor_parallel_size": 4})


def test_info_shows_what_ranks_keep_of_hidden_states(checkpoints: Folder) -> None:
    """As many pages of each kind on all ranks as the engine's ranks get."""
    folder = checkpoints("whisper")[0]
    options = {"kv_cache_memory_gib": 0.0005, **SMALL, **LATENT}
    parallel = {"decoder_tensor_parallel_size": 2}
    lines = describe_model(str(folder), {"device": "cpu", **options, **parallel}).splitlines()
    caches = [line for line in lines if line.startswith("      cache: ")]
    with RankedEngine(folder, Parallel(2), **options) as engine:
        pool = engine.replica.runner.pool
    assert pool.states is not None
    assert len(caches) == 2
    for line in caches:
        assert line.startswith(f"      cache: {pool.num_pages} KV pages of ")
        assert f"), {pool.states.num_pages} pages of hidden states of 0.8 KiB (" in line
        assert " tokens from encoders (" in line
    alone = describe_model(str(folder), {"device": "cpu", **options})
    assert " MiB of hidden states for one sequence of full length" in alone
    assert " pages of hidden states of 0.8 KiB (" in alone
    small = describe_model(str(folder), {"device": "cpu", **options, "kv_cache_memory_gib": 1e-6})
    assert "  an engine would not start: 0.00102 MiB of KV cache hold 0 pages of " in small
    assert "  cache: " not in small
    assert "hidden states" not in describe_model(str(folder), {"device": "cpu"}).split("cache: ")[1]


def test_the_fullest_rank_must_hold_one_sequence(checkpoints: Folder) -> None:
    """Three heads on two ranks: the first one has two of them."""
    folder = str(checkpoints("bart")[0])
    per_rank = {"device": "cpu", "decoder_tensor_parallel_size": 2, **SMALL}
    with pytest.raises(
        ConfigurationError,
        match=r"rank 0 of the decoder's tensor 2 x pipeline 1 = 2 ranks keeps 3 of 3 layers and 2 "
        r"of 3 heads: .* one full sequence needs .*; or give it more ranks",
    ):
        AsyncEngine(folder, kv_cache_memory_gib=0.0001, **per_rank)
