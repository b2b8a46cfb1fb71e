"""Several processes share the workers of one engine."""

import asyncio
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import ray

from antiphon import AsyncEngine, Engine
from antiphon.actors.processes import birth
from antiphon.config.errors import ConfigurationError, EngineDeadError

pytestmark = pytest.mark.usefixtures("ray_cluster")

OTHER_PROCESS = """
    import sys, time
    from antiphon import Engine
    from antiphon.config.errors import EngineDeadError

    with Engine.attach("owned", address=sys.argv[1]) as engine:
        outputs = engine.generate([f"in words: {n}" for n in range(20, 40)], use_tqdm=False)
        print(outputs[1].outputs[0].text, flush=True)
        for delta in engine.stream("in words: 407"):
            print(delta.text, end="")
        print(flush=True)
        sys.stdin.readline()
        try:
            while True:
                engine.generate("in words: 5", use_tqdm=False)
                time.sleep(0.05)
        except EngineDeadError as error:
            print("dead:", error, flush=True)
"""


@pytest.fixture
def shared(numbers_over_ray: Engine) -> Engine:
    return numbers_over_ray


def words(engine: Engine, number: int) -> str:
    output = engine.generate(f"in words: {number}", use_tqdm=False)[0]
    if output.error is not None:
        raise output.error
    return output.outputs[0].text


def keep_asking(engine: Engine) -> None:
    while True:
        words(engine, 5)


def test_two_frontends_of_one_process(shared: Engine) -> None:
    with Engine.attach("shared") as second:
        assert words(second, 3) == words(shared, 3) == "three"
        assert second.config.workers.name == "shared"
        assert second.stats() == shared.stats()
    assert words(shared, 4) == "four"  # the end of one frontend leaves the others alone
    with pytest.raises(EngineDeadError, match="closed"):
        words(second, 4)


def test_a_name_that_is_taken_or_unknown(shared: Engine, t5_folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"'shared' runs in this cluster already"):
        Engine(str(t5_folder), name="shared")
    with pytest.raises(ConfigurationError, match=r"no engine named 'other' .*'shared'"):
        Engine.attach("other")


def test_another_process_shares_the_workers_until_their_owner_closes(
    shared: Engine, t5_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are gone then; those of another engine of the cluster go on."""
    monkeypatch.chdir(t5_folder.parent)  # and names its model by a relative path
    address = ray.get_runtime_context().gcs_address
    owner = Engine(t5_folder.name, max_num_seqs=8, name="owned")
    try:
        script = textwrap.dedent(OTHER_PROCESS)
        other = subprocess.Popen(
            [sys.executable, "-c", script, address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "twenty one\n"
        assert other.stdout.readline() == "four hundred seven\n"
        assert words(owner, 8) == "eight"
        assert owner.stats()["done"] == 22
        spots = owner._loop_thread.run(owner.workers.processes())
        assert set(spots) == {"encoder-0", "decoder-0"}
        other.stdin.write("\n")
        other.stdin.flush()
    finally:
        owner.close()
    owner.close()
    assert [birth(spot.pid) for spot in spots.values()] == [None, None]
    with pytest.raises(EngineDeadError, match="closed"):
        words(owner, 8)
    output, _ = other.communicate(timeout=60)
    assert output == "dead: the process that started the engine has closed it\n"
    assert other.returncode == 0
    assert words(shared, 4) == "four"


def test_an_async_frontend(shared: Engine) -> None:
    async def run() -> str:
        async with await AsyncEngine.attach("shared") as engine:
            return (await engine.generate("in words: 9")).outputs[0].text

    assert asyncio.run(run()) == "nine"


@pytest.mark.slow
def test_a_frontend_that_is_silent_is_dropped(shared: Engine) -> None:
    """As one whose process was killed; this one still hears why."""
    with Engine.attach("shared") as second:
        assert second.workers is not None
        second.workers._supervisor.detach()
        began = time.monotonic()
        with pytest.raises(EngineDeadError, match=r"frontend-\w+ was silent for 30 s"):
            keep_asking(second)
        assert time.monotonic() - began < 40
    assert words(shared, 6) == "six"
