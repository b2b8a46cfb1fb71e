"""On a CUDA device: the kernels of sampling against the rules in torch on a CPU, and steps with
rows of every kind.

python -m pytest -m gpu tests/gpu/test_sampling.py
"""

from typing import Any

import numpy as np
import pytest
import torch
from kernel_checks import check_beams, check_samples, on_device, random_slots
from plain_engine import PlainEngine
from sampled_requests import KINDS, check_same, request

from antiphon.config.decoding_rules import BeamRules, DecodingRules, TimestampRules
from antiphon.decoder.runner import LaunchedStep
from antiphon.decoder.sampling.sampler import Sampler
from antiphon.decoder.sampling.samples import Samples
from antiphon.scheduler.plan import StepPlan
from antiphon.scheduler.request import Finished, RequestState

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("count", [1, 64, 300])
@pytest.mark.parametrize("with_rules", [False, True])
def test_greedy_sampling(seed: int, count: int, with_rules: bool) -> None:
    """Whisper's vocabulary; sequences in every state that the timestamp rules tell apart."""
    rng, vocabulary = np.random.default_rng(seed), 51866
    last = {"last_id": 51_800} if seed % 2 else {}  # tokens were added behind the timestamps
    rules = TimestampRules(
        first_id=50365, no_timestamps_id=50364, end_id=50257, max_initial=50, **last
    )
    on_cpu = random_slots(rng, rules, count, vocabulary, max_len=448)
    there = on_device(on_cpu, torch.device("cuda"))
    lengths = torch.from_numpy(on_cpu.host["max_len"][:count].astype(np.int32)) - 1
    rows = torch.arange(count, dtype=torch.int32)
    logits = torch.from_numpy(rng.standard_normal((count, vocabulary)).astype(np.float32) * 3)
    logits[:, rules.first_id :] += 2.0
    wanted, actual = (Samples.empty(count, torch.device(name)) for name in ("cpu", "cuda"))
    applied = rules if with_rules else None
    Sampler(on_cpu, applied, kernels=False).greedy(logits, rows, lengths, wanted)
    Sampler(there, applied).greedy(logits.cuda(), rows.cuda(), lengths.cuda(), actual)
    check_samples(actual, wanted)
    assert torch.equal(there.tokens.cpu(), on_cpu.tokens)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("count", [5, 160])
@pytest.mark.parametrize("with_rules", [False, True])
def test_beam_candidates(seed: int, count: int, with_rules: bool) -> None:
    """Likewise, of beam searches."""
    rng, vocabulary = np.random.default_rng(seed), 51866
    rules = TimestampRules(first_id=50365, no_timestamps_id=50364, end_id=50257, max_initial=50)
    on_cpu = random_slots(rng, rules, count, vocabulary, max_len=448, with_beams=True)
    there = on_device(on_cpu, torch.device("cuda"))
    lengths = on_cpu.host["max_len"][:count] - 1
    logits = torch.from_numpy(rng.standard_normal((count, vocabulary)).astype(np.float32) * 3)
    logits[:, rules.first_id :] += 2.0
    rows, applied = np.arange(count), rules if with_rules else None
    wanted = Sampler(on_cpu, applied, kernels=False).beam_candidates(logits, rows, lengths)
    sampler, samples = Sampler(there, applied), Samples.empty(count, torch.device("cuda"))
    own_rows, own_lengths = (torch.from_numpy(array).int().cuda() for array in (rows, lengths))
    sampler.greedy(logits.cuda(), own_rows, own_lengths, samples)
    actual = sampler.beam_candidates(logits.cuda(), rows, lengths)
    check_beams(actual, wanted)


OPTIONS = {"max_num_seqs": 8, "max_model_len": 16, "kv_cache_memory_gib": 1, "dtype": "float32"}


def run(engine: PlainEngine, seed: int) -> list[Finished]:
    """Requests of every kind, in an order of their own for every seed."""
    choices = [(kind, number) for kind in range(len(KINDS)) for number in range(2)]
    order = np.random.default_rng(seed).permutation(len(choices))
    ids: dict[int, int] = {}
    for i in order.tolist():
        ids[i] = engine.submit(request(engine, *choices[i]))
        engine.step()
    ends = engine.run()
    return [ends[ids[i]] for i in range(len(choices))]


def test_mixed_batches_in_graphs_equal_the_cpu_and_each_request_alone(checkpoints: Any) -> None:
    """Steps with rows that draw, are penalized or want the likeliest tokens stay in graphs."""
    folder, _ = checkpoints("bart")
    expected = run(PlainEngine(folder, max_num_seqs=8, max_model_len=16), seed=0)
    engine = PlainEngine(folder, device="cuda", **OPTIONS)
    ends = [run(engine, seed) for seed in range(3)]
    assert not engine.replica.runner.eager_steps
    ends.append(run(PlainEngine(folder, device="cuda", enforce_eager=True, **OPTIONS), seed=4))
    alone = PlainEngine(folder, device="cuda", **{**OPTIONS, "max_num_seqs": 1})
    ends.append(run(alone, seed=5))
    for mixed in ends:
        for actual, wanted in zip(mixed, expected, strict=True):
            check_same(actual, wanted)


SEARCHES = [
    BeamRules(2, 2),
    BeamRules(5, 3, by_whisper=True),
    BeamRules(4, 1, by_whisper=True, length_penalty=0.8, patience=2.0),
    BeamRules(3, 3, early_stopping=True),
    BeamRules(3, 2, renormalize=True),
]


def search(engine: PlainEngine, seed: int) -> list[Finished]:
    """Beam searches for which the kernels know all rules, some that need torch's, and requests
    without beams beside them."""
    rng, ids = np.random.default_rng(seed), []
    for beams in [*SEARCHES, None] * 3:
        text, length = rng.integers(3, 90, 6).astype(np.int32), int(rng.integers(4, 12))
        ngram = 2 if rng.random() < 0.3 else 0
        rules = DecodingRules(suppress=(5,), stop_ids=(8, 20), no_repeat_ngram=ngram, beams=beams)
        ids.append(engine.submit(engine.request(text, [2], length, rules)))
        engine.step()
    ends = engine.run()
    return [result for id_ in ids for result in ends[id_].results()]


@pytest.mark.parametrize("options", [{}, {"enforce_eager": True}])
def test_beam_searches_find_what_they_do_on_a_cpu(
    checkpoints: Any, options: dict[str, Any]
) -> None:
    folder, _ = checkpoints("bart")
    expected = search(PlainEngine(folder, max_num_seqs=16, max_model_len=16), seed=7)
    engine = PlainEngine(folder, device="cuda", **{**OPTIONS, "max_num_seqs": 16, **options})
    ends = search(engine, seed=7)
    assert not engine.replica.runner.eager_steps
    assert len(ends) > 3 * (len(SEARCHES) + 1)
    for actual, wanted in zip(ends, expected, strict=True):
        assert actual.state is wanted.state is RequestState.DONE
        assert actual.token_ids == wanted.token_ids
        assert actual.score == pytest.approx(wanted.score, abs=1e-3)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_launching_a_mixed_step_never_waits_for_the_device(checkpoints: Any) -> None:
    engine = PlainEngine(checkpoints("bart")[0], device="cuda", **OPTIONS)
    runner = engine.replica.runner
    launch = runner.launch

    def watched(plan: StepPlan) -> LaunchedStep:
        torch.cuda.set_sync_debug_mode("error")
        try:
            return launch(plan)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    runner.launch = watched
    assert all(end.state is RequestState.DONE for end in run(engine, seed=0))
