"""A cluster of two nodes that loses one under load. In a program of its own, with its own Ray."""

import json
import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

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


@pytest.mark.slow
def test_requests_go_on_when_a_node_is_lost(t5_folder: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(t5_folder)]
    with tempfile.TemporaryDirectory(prefix="n", dir="/tmp") as folder:  # socket paths are short
        environment = {**os.environ, "RAY_TMPDIR": folder}  # no other Ray finds this one
        run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    seen = json.loads(run.stdout.splitlines()[-1])
    print(seen)
    assert seen["lost"], "no worker ran on the second node"
    assert (seen["failed"], seen["wrong"]) == ([], [])
    assert seen["requests"] == 60
    assert seen["noticed"] - seen["removed"] < 3.0
