"""The sampling kernels of ranks that share the vocabulary, in Triton's interpreter: they choose as
the rules in torch, and as the kernels of one rank do."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from thread_group import TakingTurns, ThreadGroup, run_ranks

pytest.importorskip("triton")

from shared_vocabulary import Batch, check_alike
from triton.runtime.interpreter import GridExecutor

from antiphon.config.decoding_rules import TimestampRules
from antiphon.decoder.readouts import DeviceReadouts
from antiphon.decoder.sampling.samples import Samples
from antiphon.decoder.sampling.vocabulary import VocabularyShard
from antiphon.kernels.formats import READOUT_NUMBERS, ROW_NUMBERS
from antiphon.layers.shard import Shard

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="compiled there: see tests/gpu")
COUNT, VOCABULARY = 5, 90  # two ranks have 48 and 42 words, three have 32, 32 and 26


def check_every_way(batch: Batch, ranks: int, logits: torch.Tensor) -> None:
    """Tokens of one rank, in torch and by its kernels, and of each of `ranks`, in both ways."""

    def work(group: ThreadGroup) -> tuple[Samples, Samples]:
        shard = Shard(group)
        return batch.by_torch(logits, shard), batch.by_kernels(logits, shard)

    alone, wanted = batch.by_kernels(logits), batch.by_torch(logits)
    assert alone.tokens.tolist() == wanted.tokens.tolist()
    for in_torch, by_kernels in run_ranks(ranks, work, TakingTurns):
        check_alike(by_kernels, in_torch)
        check_alike(by_kernels, alone)
        assert by_kernels.ranks.tolist() == [0] * COUNT, "left to `Sampler.finish`"


def test_ranks_choose_as_torch_and_as_one_rank_does() -> None:
    batch = Batch(3, TimestampRules(60, 59, 50, 4, last_id=80))
    check_every_way(batch, 3, batch.logits(0.1).to(torch.bfloat16))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of rows without any logit
@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 1000),
    ranks=st.sampled_from([2, 3]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    block=st.sampled_from([32, 64]),
    whole_numbers=st.booleans(),  # then many tokens are equally likely, also on several ranks
    barred=st.sampled_from([0.0, 0.5, 0.97, 1.0]),
    rules=st.none()
    | st.builds(
        TimestampRules,
        first_id=st.sampled_from([60, 64]),
        no_timestamps_id=st.just(59),
        end_id=st.just(50),
        max_initial=st.none() | st.just(4),
        last_id=st.sampled_from([80, 89]),  # 80: tokens were added behind the timestamps
    ),
)
def test_every_rule_tie_and_type(
    seed: int,
    ranks: int,
    dtype: torch.dtype,
    block: int,
    whole_numbers: bool,
    barred: float,
    rules: TimestampRules | None,
) -> None:
    batch = Batch(seed, rules, block=block)
    check_every_way(batch, ranks, batch.logits(barred, whole_numbers).to(dtype))


def test_the_lowest_of_equally_likely_tokens_wins_also_a_timestamp() -> None:
    """One timestamp that is as likely as the best text behind it, which another rank has."""
    rules = TimestampRules(60, 59, 50, None, last_id=80)
    logits = torch.full((COUNT, VOCABULARY), float("-inf"))
    logits[:, [70, 85]] = 2.0
    check_every_way(Batch(0, rules), 3, logits)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")
@pytest.mark.parametrize("columns", [slice(0, 90), slice(50, 51)])
def test_logits_that_are_no_numbers_give_the_token_of_one_rank(columns: slice) -> None:
    logits = torch.randn(COUNT, VOCABULARY)
    logits[1:, columns] = float("nan")
    batch = Batch()
    alone = batch.by_kernels(logits)
    assert alone.logprobs[0].isfinite()
    assert alone.logprobs[1:].isnan().all(), "which an answer shows as none"
    for samples in run_ranks(3, lambda group: batch.by_kernels(logits, Shard(group)), TakingTurns):
        check_alike(samples, alone)
        assert (samples.tokens >= 0).all()
        assert (samples.tokens < VOCABULARY).all()


@pytest.mark.parametrize("ranks", [1, 2])
def test_launches_and_exchanges_of_a_step(ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone: two kernels, and nothing is exchanged. Otherwise three, and ten numbers a row."""
    launched: list[str] = []
    launch = GridExecutor.__call__

    def counted(self: GridExecutor, *arguments: object, **options: object) -> None:
        launched.append(self.fn.__name__)
        launch(self, *arguments, **options)

    monkeypatch.setattr(GridExecutor, "__call__", counted)
    batch, logits = Batch(), torch.randn(COUNT, VOCABULARY)
    if ranks == 1:
        batch.by_kernels(logits)
        assert launched == ["scan_kernel", "join_kernel"]
        return

    def work(group: ThreadGroup) -> ThreadGroup:
        batch.by_kernels(logits, Shard(group))
        return group

    for group in run_ranks(ranks, work, TakingTurns):
        assert group.calls == ["all_gather"]
        assert group.numbers == [COUNT * ROW_NUMBERS]
    kernels = ("scan_kernel", "describe_kernel", "choose_kernel")
    assert sorted(launched) == sorted(kernels * ranks)


@pytest.mark.parametrize(("ranks", "vocabulary"), [(2, 90), (3, 90), (3, 16)])
def test_readouts(ranks: int, vocabulary: int) -> None:
    """Ties, tokens that are none, a row of which one rank has no logit, and with 16 words a rank
    without any."""
    logits = (torch.randn(7, vocabulary) * 2).round().to(torch.bfloat16)
    logits[2, : vocabulary // 2] = float("-inf")
    asked = torch.tensor([0, 7, vocabulary - 1, -1, 3, vocabulary, 5], dtype=torch.int32)
    wanted = DeviceReadouts.empty(7, torch.device("cpu"))
    wanted.read(logits, asked)

    def work(group: ThreadGroup) -> tuple[DeviceReadouts, ThreadGroup]:
        words = VocabularyShard(vocabulary, Shard(group))
        readouts = DeviceReadouts.empty(7, torch.device("cpu"))
        readouts.read_by_kernels(logits[:, words.span.slice], asked, words)
        return readouts, group

    for readouts, group in run_ranks(ranks, work, TakingTurns):
        torch.testing.assert_close(readouts.logprobs, wanted.logprobs, atol=1e-5, rtol=1e-5)
        assert readouts.likeliest.tolist() == wanted.likeliest.tolist()
        assert group.numbers == [7 * READOUT_NUMBERS]
