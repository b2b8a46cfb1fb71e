"""Every rule of sampling is gone through before the first request; and log-probabilities leave a
graph's tokens as they are."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plain_engine import PlainEngine

from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.options import ModelOptions
from antiphon.config.sampling import SamplingParams
from antiphon.decoder import warm_up
from antiphon.decoder.sampling import sampler as sampler_module
from antiphon.decoder.sampling.cpu_sampler import CpuSampler
from antiphon.decoder.sampling.sampler import Sampler
from antiphon.decoder.sampling.samples import Samples
from antiphon.decoder.sampling.settings import (
    GRAPH_FEATURES,
    SETTINGS,
    SamplingFeatures,
    SettingsTable,
)
from antiphon.decoder.state import Slots
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.processor import InputProcessor
from antiphon.scheduler.plan import Admission

# What never reaches a step on the device: the host deals with it, or it comes as one of the rules.
OF_THE_HOST = {
    "n", "seed", "max_tokens", "stop", "stop_token_ids", "include_stop_str_in_output", "ignore_eos",
    "skip_special_tokens", "fields_set", "no_repeat_ngram_size", "beam_size", "length_penalty",
    "early_stopping", "patience",
}  # fmt: skip
LENGTHS_AND_SEEDS = {"prompt_len", "max_len", "seed"}


def warmed(folder: Path) -> tuple[set[str], set[str], bool]:
    """Features that some step of a warm-up asked for, settings that it switched on, and whether it
    named the tokens whose log-probabilities it wants."""
    inputs = InputProcessor(ModelConfig.load(ModelOptions(str(folder))))
    engine = PlainEngine(
        folder, None if inputs.whisper is None else inputs.whisper.rules(), max_num_seqs=2
    )
    runner, features_used, on, named = engine.replica.runner, set(), set(), False
    launch = runner.launch

    def watched(plan: Any) -> Any:
        nonlocal named
        launched = launch(plan)
        flags = vars(runner.sampler.features(plan.slots))
        features_used.update(name for name, value in flags.items() if value)
        on.update(runner.slots.host.in_use(plan.slots))
        named = named or bool(runner.slots.logprob_ids)
        return launched

    runner.launch = watched
    runner.warm_up()
    return features_used, on, named


def test_warming_up_asks_for_every_rule(whisper_folder: Path) -> None:
    """A rule that is new in `SamplingFeatures` or in `SETTINGS` must be in `warm_up`."""
    features_used, on, named = warmed(whisper_folder)
    assert features_used == {item.name for item in fields(SamplingFeatures)}
    assert on | LENGTHS_AND_SEEDS == set(SETTINGS)
    assert named


def test_every_way_to_a_token_is_gone(
    whisper_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is only compiled or loaded once it runs."""
    gone = set()

    def watch(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            gone.add(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, watched)

    ways = [(CpuSampler, "greedy"), (CpuSampler, "beam_candidates"), (Sampler, "_resampled")]
    ways += [(sampler_module, "likeliest_candidates"), (sampler_module, "draw")]
    for owner, name in ways:
        watch(owner, name)
    warmed(whisper_folder)
    assert gone == {name for _, name in ways}


def test_every_rule_and_parameter_is_among_those_of_warming_up() -> None:
    off = DecodingRules()
    for rule in fields(DecodingRules):
        if rule.name != "timestamps":  # a checkpoint's own
            assert getattr(warm_up.RULES, rule.name) != getattr(off, rule.name), rule.name
    for parameter in fields(SamplingParams):
        values = [getattr(params, parameter.name) for params in warm_up.ASKING]
        default = getattr(warm_up.PLAIN, parameter.name)
        assert parameter.name in OF_THE_HOST or any(value != default for value in values), (
            parameter.name
        )


def test_each_setting_switches_its_own_feature_on() -> None:
    table = SettingsTable(4)
    assert table.in_use(np.arange(4)) == []
    for name, setting in SETTINGS.items():
        table[name][2] = 3
        assert table.in_use(np.array([2, 1])) == [name] * (name != "seed")
        assert table.in_use(np.array([0, 1, 3])) == []
        features = vars(SamplingFeatures.of(table, np.arange(4)))
        assert [item for item, on in features.items() if on] == (
            [] if setting.feature is None else [setting.feature]
        )
        table.clear(2)
        assert table[name][2] == np.array(setting.off, setting.dtype)
    named = {setting.feature for setting in SETTINGS.values()} - {None}
    assert named == {item.name for item in fields(SamplingFeatures)}


def test_a_graphs_features_are_those_whose_settings_its_kernel_reads() -> None:
    in_graph = {name for name, on in vars(GRAPH_FEATURES).items() if on}
    for name, setting in SETTINGS.items():
        if setting.feature is not None:
            assert setting.in_graph == (setting.feature in in_graph), name


def test_a_rule_left_out_would_be_seen(t5_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_up, "RULES", DecodingRules(min_tokens=1))
    features_used, on, _ = warmed(t5_folder)
    assert {"bad_words", "ngrams", "forced"}.isdisjoint(features_used)
    assert {"bad_words", "no_repeat_ngram", "forced_first"}.isdisjoint(on)


ASKING = [
    SamplingParams(logprobs=3),
    SamplingParams(),
    SamplingParams(allowed_token_ids=[4, 6, 9], logprob_token_ids=[9, 6, 4]),
    SamplingParams(logprobs=0, logit_bias={7: 3.0}),
]


def sampler_of(params: list[SamplingParams]) -> tuple[Sampler, np.ndarray, np.ndarray]:
    slots = Slots(len(params), 12, 20, torch.device("cpu"))
    for slot, item in enumerate(params):
        slots.admit(
            [Admission(slot, np.array([2, 3]), 2, 12, 0, item, DecodingRules(suppress=(1,)))]
        )
    return Sampler(slots, None), np.arange(len(params)), np.full(len(params), 2)


def test_the_likeliest_tokens_leave_what_a_graph_wrote_as_it_is() -> None:
    logits = torch.randn(len(ASKING), 20, generator=torch.Generator().manual_seed(5))
    sampler, slots, lengths = sampler_of(ASKING)
    samples = Samples.empty(len(ASKING), torch.device("cpu"))
    sampler.greedy(logits, torch.from_numpy(slots), torch.from_numpy(lengths), samples)
    before = samples.packed.clone()
    top = sampler.finish(logits, slots, lengths, samples)
    assert top is not None
    assert top.rows.tolist() == [0, 2]
    assert torch.equal(samples.packed, before)
    raw = logits.log_softmax(-1)
    rows = samples.on_host()
    assert rows["rank"].tolist()[1] == 0
    for row in (0, 2, 3):
        chosen = raw[row, rows["token"][row]]
        assert rows["rank"][row] == (raw[row] > chosen).sum() + 1


@pytest.mark.gpu
def test_log_probabilities_behind_a_graph_equal_those_without(t5_folder: Path) -> None:
    ends = []
    for eager in (True, False):
        engine = PlainEngine(t5_folder, device="cuda", dtype="float32", enforce_eager=eager)
        for i, params in enumerate(ASKING * 3):
            engine.submit(
                engine.request(
                    np.arange(5, 12 + i, dtype=np.int32), [0], 6, DecodingRules(), params=params
                )
            )
        ends.append(engine.run())
    for id_, end in ends[0].items():
        other = ends[1][id_]
        assert end.token_ids == other.token_ids
        assert [item.ids for item in end.logprobs] == [item.ids for item in other.logprobs]
        for actual, expected in zip(end.logprobs, other.logprobs, strict=True):
            np.testing.assert_allclose(actual.logprobs, expected.logprobs, atol=1e-4)
