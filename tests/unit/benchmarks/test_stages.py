"""The bubble of a pipeline, as `antiphon bench steps` shows it."""

import time
from pathlib import Path

import pytest
import torch
from thread_group import ThreadGroup, run_ranks
from typer.testing import CliRunner

from antiphon.benchmarks import shapes
from antiphon.benchmarks.commands import app
from antiphon.benchmarks.stages import StageTime, Waits, stage_rows
from antiphon.config.errors import ConfigurationError
from antiphon.config.parallel import Parallel

SMALL_T5 = {"d_model": 64, "d_ff": 64, "num_layers": 3, "num_decoder_layers": 3, "num_heads": 2}
CPU = torch.device("cpu")


def test_only_the_time_in_receives_counts_as_waiting() -> None:
    def work(group: ThreadGroup) -> float:
        waits = Waits(group, CPU)
        if group.rank == 0:
            time.sleep(0.2)
            waits.send(torch.ones(2), 1)
        else:
            waits.receive(torch.empty(2), 0)
        return waits.seconds

    first, second = run_ranks(2, work)
    assert first == 0.0
    assert second >= 0.15


def test_a_faster_stage_waits_even_without_a_bubble() -> None:
    """Of a step of 10 ms, the slower stage computes 8, the faster one 4: half of what the slower
    one takes it cannot but wait. The second rank of a stage has no row."""
    times = [
        StageTime(rank, layers, 4, 0.010, waited)
        for rank, (layers, waited) in enumerate([(2, 0.002), (2, 0.003), (1, 0.006), (1, 0.006)])
    ]
    slower, faster = stage_rows("decoder", Parallel(2, 2), times)
    assert (slower["stage"], slower["layers"], faster["stage"], faster["layers"]) == (0, 2, 1, 1)
    assert slower["waits_%"] == pytest.approx(20)
    assert slower["ideal_%"] == 0
    assert faster["waits_%"] == pytest.approx(60)
    assert faster["ideal_%"] == pytest.approx(50)


def test_loads_of_several_ranks_need_processes(tmp_path: Path) -> None:
    shapes.write_checkpoint({**shapes.PUBLISHED["flan-t5-base"], **SMALL_T5}, tmp_path)
    options = ["-m", str(tmp_path), "--no-ray", "--decoder-tensor-parallel-size", "2"]
    for command in ("throughput", "latency", "steps"):
        result = CliRunner().invoke(app, [command, *options, "--device", "cpu"])
        assert isinstance(result.exception, ConfigurationError), result.output
        assert "need a process each" in str(result.exception)


@pytest.mark.slow
def test_stages_of_both_halves_are_measured_on_cpus(tmp_path: Path) -> None:
    shapes.write_checkpoint({**shapes.PUBLISHED["flan-t5-base"], **SMALL_T5}, tmp_path)
    sizes = ["--batches", "2", "--decodes", "1,2", "--cross-tokens", "8", "--length", "8"]
    layout = ["--pipeline-parallel-size", "2", "--decoder-pipeline-layers", "1,2"]
    limits = ["--device", "cpu", "--max-model-len", "32", "-o", "max_encoder_len=16"]
    result = CliRunner().invoke(app, ["steps", "-m", str(tmp_path), *sizes, *layout, *limits])
    assert result.exit_code == 0, (result.output, result.exception)
    assert "waits_%" in result.output
    assert result.output.count("tensor 1 x pipeline 2") == 2 + 2 * 2
