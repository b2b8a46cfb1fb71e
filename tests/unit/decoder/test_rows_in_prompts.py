"""Rows of hidden states that stand in prompts: who may write there, and when."""

from pathlib import Path

import pytest
from prompt_states import STATES, StatesEngine, make_states, run_with_states
from tiny_decoders import make_decoder

from antiphon.decoder.embeddings import PromptStates
from antiphon.decoder.launched_step import LaunchedStep
from antiphon.scheduler.plan import StepPlan


def test_rows_belong_to_their_step_whichever_stage_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leader has the last stage, and says which rows encoders may write; the first reads."""
    model = make_decoder("llama", tmp_path)
    monkeypatch.setattr(PromptStates, "fill", lambda *_: None)  # as on a later stage
    options = {"max_num_seqs": 2, "max_model_len": 16, "max_num_batched_tokens": 5}  # in parts
    engine = StatesEngine(tmp_path, make_states(model, STATES), **options)
    runner, seen = engine.replica.runner, list[tuple[int, int]]()
    launch = runner.launch

    def watched(plan: StepPlan) -> LaunchedStep:
        for part in plan.embeddings:
            seen.append((runner.arena.space._owned[part.key].used, plan.number))
        return launch(plan)

    monkeypatch.setattr(runner, "launch", watched)
    run_with_states(engine)
    assert len(seen) > len(STATES)
    assert all(used == number for used, number in seen)
