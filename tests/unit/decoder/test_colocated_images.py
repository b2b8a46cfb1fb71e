"""Images in prompts where each rank of a colocated replica encodes a share of them."""

from pathlib import Path
from typing import Any

import pytest
from colocated_ranks import ColocatedRanks
from plain_engine import PlainEngine
from rank_scenarios import check_same_ends
from tiny_vlms import make_vlm, picture

from antiphon.config.parallel import Parallel
from antiphon.config.sampling import SamplingParams
from antiphon.inputs.processor import InputProcessor
from antiphon.scheduler.request import Media

OPTIONS: dict[str, Any] = {"max_num_seqs": 4, "kv_page_size": 4}


def play(engine: PlainEngine) -> None:
    """Two rounds of the same prompts: the second one finds their beginnings."""
    inputs = InputProcessor(engine.model)
    for _ in range(2):
        for number, images in enumerate([(0,), (1, 2), (), (2, 0, 1)]):
            prompt = {
                "prompt": " ".join([f"w{number + 5}", *["<image> w9 w8"] * len(images)]),
                "multi_modal_data": {"image": [picture(image) for image in images]},
            }
            prepared = inputs.prepare(prompt, SamplingParams())
            assert prepared.prompt_token_ids is not None
            request = engine.request(None, prepared.prompt_token_ids, 8)
            request.inputs = tuple(
                Media(part.key, part.kind, part.num_tokens, part.payload, part.position, part.grid)
                for part in prepared.inputs
            )
            engine.submit(request)
        engine.run()


@pytest.mark.parametrize("name", ["llava", pytest.param("qwen2_vl", marks=pytest.mark.slow)])
def test_they_give_what_one_rank_gives(name: str, tmp_path: Path) -> None:
    """Tokens and log-probabilities, by chunks of prompts and from cached beginnings."""
    make_vlm(name, tmp_path)
    options = {**OPTIONS, "max_num_batched_tokens": 13}
    alone = PlainEngine(tmp_path, **options)
    play(alone)
    with ColocatedRanks(tmp_path, Parallel(2), **options) as engine:
        play(engine)
        check_same_ends(engine.finished, alone.finished)
        assert engine.replica.scheduler.counters["prefix_cache_hits"] > 0
        assert any(0 not in shares for shares in engine.shares), "each rank has encoded some"
