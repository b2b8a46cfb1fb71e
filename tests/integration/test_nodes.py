"""Clusters of two nodes, each in a program of its own with its own Ray: one that loses a node under
load, and a replica of several ranks on both."""

import json
import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import pytest
from tiny_decoders import make_decoder

SCRIPT = """
    import asyncio, json, sys, time
    import ray
    from ray.cluster_utils import Cluster
    from antiphon import AsyncEngine, SamplingParams
    from antiphon.benchmarks.chaos import Load

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4})
    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    other = cluster.add_node(num_cpus=2)  # after this program has joined the first one
    cluster.wait_for_nodes()


    async def main() -> dict:
        options = dict(encoder_replicas=2, decoder_replicas=2, num_threads=1, max_num_seqs=8)
        async with AsyncEngine(sys.argv[1], **options) as engine:
            spots = await engine.workers.processes()
            lost = {name for name, spot in spots.items() if spot.node == other.node_id}
            params = SamplingParams(ignore_eos=True, max_tokens=120)
            load = Load(engine, [f"in words: {number}" for number in range(300, 310)], params)
            await load.learn()
            serving = asyncio.create_task(load.serve(60, concurrency=12))
            await asyncio.sleep(0.5)
            began = time.monotonic()
            cluster.remove_node(other, allow_graceful=False)
            removed = time.monotonic() - began
            noticed = by_ray = back = None
            while back is None or by_ray is None:
                passed = time.monotonic() - began
                running = {m.name for m in engine.workers.members if m.alive and m.name in lost}
                fresh = {m.name for m in engine.workers.members if m.alive and m.epoch > 1}
                if noticed is None and running - fresh == set():
                    noticed = passed
                if back is None and lost <= fresh:
                    back = passed
                if by_ray is None and sum(node["Alive"] for node in ray.nodes()) == 1:
                    by_ray = passed
                assert passed < 90, (noticed, by_ray, back)
                await asyncio.sleep(0.02)
            await serving
            return dict(
                lost=sorted(lost), removed=removed, noticed=noticed, by_ray=by_ray, back=back,
                requests=load.tally.requests, failed=load.tally.failed, wrong=load.tally.wrong,
                longest=max(load.tally.latencies),
            )


    try:
        print(json.dumps(asyncio.run(main())))
    finally:
        ray.shutdown()
        cluster.shutdown()
"""


# A stage of two ranks fits each node. The leader of stages is of the last one: decoder-0 and the
# last of the others; see `Supervisor.processes`.
RANKS = """
    import asyncio, json, os, signal, sys
    import ray
    from ray.cluster_utils import Cluster
    from antiphon import AsyncEngine, SamplingParams

    PARAMS = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True)
    PROMPTS = [" ".join(f"w{3 + (7 * n + i) % 60}" for i in range(2 + n)) for n in range(8)]


    async def tokens(engine: AsyncEngine) -> list[list[int]]:
        outputs = await asyncio.gather(*(engine.generate(prompt, PARAMS) for prompt in PROMPTS))
        return [list(output.outputs[0].token_ids) for output in outputs]


    async def alone() -> list[list[int]]:
        async with AsyncEngine(sys.argv[1], ray=False, num_threads=1) as engine:
            return await tokens(engine)


    async def together(expected: list[list[int]]) -> dict:
        layout = dict(decoder_tensor_parallel_size=2, decoder_pipeline_parallel_size=2)
        async with AsyncEngine(sys.argv[1], num_threads=1, **layout) as engine:
            spots = await engine.workers.processes()
            seen = {"right": await tokens(engine) == expected}
            seen["nodes"] = {name: spot.node for name, spot in spots.items()}
            serving = asyncio.create_task(tokens(engine))
            await asyncio.sleep(0.1)
            os.kill(spots["decoder-0/1"].pid, signal.SIGKILL)
            seen["right after a rank's death"] = await serving == expected
            return seen


    expected = asyncio.run(alone())
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    try:
        print(json.dumps(asyncio.run(together(expected))))
    finally:
        ray.shutdown()
        cluster.shutdown()
"""


# The first node has room for the stage of two, and so has the encoder, which comes first by name.
TIGHT = """
    import asyncio, json, sys
    import ray
    from ray.cluster_utils import Cluster
    from antiphon import AsyncEngine

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()


    async def main() -> dict:
        layout = dict(decoder_tensor_parallel_size=2, startup_timeout=120)
        async with AsyncEngine(sys.argv[1], num_threads=1, **layout) as engine:
            spots = await engine.workers.processes()
            text = (await engine.generate("in words: 407")).outputs[0].text
            return {"text": text, "nodes": {name: spot.node for name, spot in spots.items()}}


    try:
        print(json.dumps(asyncio.run(main())))
    finally:
        ray.shutdown()
        cluster.shutdown()
"""


def run_script(script: str, model: Path) -> Any:
    """What it prints last, as JSON."""
    command = [sys.executable, "-c", textwrap.dedent(script), str(model)]
    with tempfile.TemporaryDirectory(prefix="n", dir="/tmp") as folder:  # socket paths are short
        environment = {**os.environ, "RAY_TMPDIR": folder}  # no other Ray finds this one
        run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    seen = json.loads(run.stdout.splitlines()[-1])
    print(seen)
    return seen


@pytest.mark.slow
def test_a_replica_has_its_stages_on_two_nodes(tmp_path: Path) -> None:
    """The ranks of a stage are on one node; a death on one node is that of the whole replica."""
    make_decoder("llama", tmp_path)
    seen = run_script(RANKS, tmp_path)
    assert seen["right"]
    assert seen["right after a rank's death"]
    nodes = seen["nodes"]
    assert set(nodes) == {"decoder-0", "decoder-0/1", "decoder-0/2", "decoder-0/3"}
    assert nodes["decoder-0"] == nodes["decoder-0/3"] != nodes["decoder-0/1"]
    assert nodes["decoder-0/1"] == nodes["decoder-0/2"]


@pytest.mark.slow
def test_no_single_rank_takes_the_room_of_a_stage(t5_folder: Path) -> None:
    seen = run_script(TIGHT, t5_folder)
    assert seen["text"] == "four hundred seven"
    nodes = seen["nodes"]
    assert nodes["decoder-0"] == nodes["decoder-0/1"] != nodes["encoder-0"]


@pytest.mark.slow
def test_requests_go_on_when_a_node_is_lost(t5_folder: Path) -> None:
    seen = run_script(SCRIPT, t5_folder)
    assert seen["lost"], "no worker ran on the second node"
    assert (seen["failed"], seen["wrong"]) == ([], [])
    assert seen["requests"] == 60
    assert seen["noticed"] - seen["removed"] < 3.0
