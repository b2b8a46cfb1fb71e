"""Encoders of several ranks: the hidden states are those of one rank."""

from typing import Any

import numpy as np
import pytest
import torch
from encoder_graphs import load, with_graphs
from hypothesis import given
from hypothesis import strategies as st
from ranked_encoder import ranked_encoder
from thread_group import ThreadGroup, run_ranks

from antiphon.attention.specs import encoder_spec
from antiphon.config.parallel import Parallel
from antiphon.encoder.batch_shares import gather, shares
from antiphon.encoder.graphs import NoGraph
from antiphon.encoder.runner import EncoderRunner
from antiphon.runtime.ranks import RankError

FAMILIES = ["bart", "t5", "whisper"]


def batches(name: str) -> list[list[np.ndarray]]:
    """Batches of one, of two and of many inputs, of different lengths."""
    rng = np.random.default_rng(sum(map(ord, name)))
    sizes = [[7], [3, 19], [5, 1, 12, 30, 2, 8, 8]]
    if name == "whisper":
        return [[rng.normal(size=400 * n).astype(np.float32) for n in batch] for batch in sizes]
    return [[rng.integers(3, 60, n).astype(np.int32) for n in batch] for batch in sizes]


def check(name: str, parallel: Parallel, checkpoints: Any, **options: Any) -> None:
    folder, _ = checkpoints(name)
    _, alone = load(folder, **options)
    with ranked_encoder(folder, parallel, **options) as leader:
        for inputs in batches(name):
            wanted, encoded = alone.encode(inputs), leader.encode(inputs)
            assert encoded.lengths == wanted.lengths
            torch.testing.assert_close(encoded.hidden, wanted.hidden, atol=1e-4, rtol=0)


# ---------------------------------------------------------------------- stages


@pytest.mark.parametrize(
    "parallel", [Parallel(2), Parallel(3), Parallel(1, 2), Parallel(2, 2)], ids=str
)
@pytest.mark.parametrize("name", ["bart", "pegasus", "m2m100", "t5", "t5_gated_untied", "whisper"])
def test_ranks_that_share_weights_give_the_states_of_one(
    name: str, parallel: Parallel, checkpoints: Any
) -> None:
    """Two ranks share three heads unevenly."""
    check(name, parallel, checkpoints)


def test_quantized_shares_give_nearly_the_states_of_one(checkpoints: Any) -> None:
    """Each rank's outputs have scales of their own, and its inputs too."""
    folder, _ = checkpoints("bart")
    _, alone = load(folder, quantization="int8")
    with ranked_encoder(folder, Parallel(2), quantization="int8") as leader:
        for inputs in batches("bart"):
            wanted, encoded = alone.encode(inputs).hidden, leader.encode(inputs).hidden
            assert (encoded - wanted).norm() < 0.05 * wanted.norm()


# ---------------------------------------------------------------------- inputs are shared


@given(st.lists(st.integers(1, 1500), min_size=1, max_size=40), st.integers(1, 8))
def test_every_input_has_one_rank_and_ranks_have_about_equally_much(
    lengths: list[int], size: int
) -> None:
    spans = shares(np.array(lengths), size)
    assert len(spans) == size
    assert [row for span in spans for row in range(span.first, span.end)] == [*range(len(lengths))]
    most = max(sum(lengths[span.slice]) for span in spans)
    assert most <= sum(lengths) / size + max(lengths)


def test_equal_windows_are_spread_evenly() -> None:
    for count in range(1, 20):
        counts = [span.count for span in shares(np.full(count, 1500), 4)]
        assert max(counts) - min(counts) <= 1


def test_states_are_gathered_in_the_order_of_the_batch() -> None:
    whole = torch.arange(18.0).view(6, 3)
    tokens = [2, 0, 4]

    def work(group: ThreadGroup) -> torch.Tensor:
        return gather(whole.split(tokens)[group.rank], tokens, group)

    first, second, third = run_ranks(3, work)
    assert torch.equal(first, whole)
    assert (len(second), len(third)) == (0, 4)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name", FAMILIES)
def test_ranks_that_share_inputs_give_the_states_of_one(
    name: str, size: int, checkpoints: Any
) -> None:
    check(name, Parallel(size, mode="data"), checkpoints)


def test_short_windows_are_shared_too(checkpoints: Any) -> None:
    check("whisper", Parallel(2, mode="data"), checkpoints, encoder_window="auto")


# ---------------------------------------------------------------------- what fails


def test_other_ranks_do_not_hear_of_a_bad_input(checkpoints: Any) -> None:
    folder, _ = checkpoints("bart")
    good = batches("bart")[1]
    with ranked_encoder(folder, Parallel(2, mode="data")) as leader:
        before = leader.encode(good).hidden
        with pytest.raises(ValueError, match="token ids must be within"):
            leader.encode([*good, np.array([-1], np.int32)])
        assert torch.equal(leader.encode(good).hidden, before)


def test_what_fails_later_ends_the_replica(
    checkpoints: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = checkpoints("bart")

    def broken(*_: Any) -> Any:
        raise RuntimeError("out of memory")

    def encode() -> None:
        with ranked_encoder(folder, Parallel(2, mode="data")) as leader:
            monkeypatch.setattr(leader, "_run_together", broken)
            leader.encode(batches("bart")[0])

    with pytest.raises(RankError, match="RuntimeError: out of memory"):
        encode()


# ---------------------------------------------------------------------- stages


@pytest.mark.parametrize("name", FAMILIES)
def test_columns_of_stages_share_inputs(name: str, checkpoints: Any) -> None:
    check(name, Parallel(2, 2, mode="data"), checkpoints)


@pytest.mark.skipif(torch.cuda.is_available(), reason="captured for real there")
@pytest.mark.parametrize("name", ["t5", pytest.param("whisper", marks=pytest.mark.slow)])
def test_stages_with_graphs_pass_on_what_their_graphs_hold(
    name: str, checkpoints: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Padded texts too: both stages choose one shape."""
    pytest.importorskip("triton")
    from antiphon.attention.backends.triton import TritonFull  # in Triton's interpreter

    folder, _ = checkpoints(name)
    model, alone = load(folder)

    def prepare(runner: EncoderRunner) -> None:
        attention = TritonFull(encoder_spec(model.encoder, runner.target))
        with_graphs(model, runner, attention, 150, monkeypatch)

    with ranked_encoder(folder, Parallel(pipeline=2), prepare) as leader:
        for inputs in batches(name)[:2]:
            assert not isinstance(leader.choose_graph(leader.frontend.pack(inputs)), NoGraph)
            hidden = leader.encode(inputs).hidden
            torch.testing.assert_close(hidden, alone.encode(inputs).hidden, atol=1e-4, rtol=0)
