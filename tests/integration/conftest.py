"""One HTTP server, and one engine over Ray, for all tests that need none of their own."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tiny_vlms import make_vlm

if TYPE_CHECKING:
    import openai
    from http_server import Running

    from antiphon import Engine


@pytest.fixture(scope="session")
def server(
    whisper_folder: Path, t5_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator["Running"]:
    """A model that hears, one that reads, and one with random weights that sees."""
    from http_server import running_server  # not above: other tests need no server

    from antiphon.serve.settings import Limits

    vision = tmp_path_factory.mktemp("sees")
    make_vlm("qwen2_vl", vision)
    models = {"hears": str(whisper_folder), "numbers": str(t5_folder), "sees": str(vision)}
    with running_server(models, Limits(upload_mib=2, audio_seconds=60)) as running:
        yield running


@pytest.fixture(scope="session")
def numbers_over_ray(ray_cluster: None, t5_folder: Path) -> Iterator["Engine"]:
    """It is named "shared"."""
    from antiphon import Engine

    with Engine(str(t5_folder), max_num_seqs=8, name="shared") as engine:
        yield engine


@pytest.fixture(scope="module")
def client(server: "Running") -> Iterator["openai.OpenAI"]:
    """OpenAI's own client of that server."""
    import openai

    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
        yield client
