"""Images behind addresses, through the engine: in prompts, in chats, and for the encoder alone."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from tiny_vlms import make_vlm, picture

from antiphon import Engine, SamplingParams
from antiphon.config.errors import ImageError

PARAMS = SamplingParams(temperature=0.0, max_tokens=6, logprobs=0)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        picture(3).save(self.wfile, "PNG")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/image.png"
    server.shutdown()
    thread.join()
    server.server_close()


def test_images_are_fetched_from_allowed_hosts_alone(tmp_path: Path, address: str) -> None:
    make_vlm("llava", tmp_path)

    def prompt(image: object) -> dict[str, object]:
        return {"prompt": "w5 <image> w6", "multi_modal_data": {"image": image}}

    options = {"allowed_media_domains": ["127.0.0.1"], "allow_private_media": True}
    with Engine(str(tmp_path), ray=False, device="cpu", **options) as engine:
        here, there = engine.encode([picture(3), address])
        assert np.array_equal(here, there)
        outputs = engine.generate([prompt(picture(3)), prompt(address)], PARAMS, use_tqdm=False)
        own, fetched = (output.outputs[0].token_ids for output in outputs)
        assert own == fetched
        parts = [{"type": "image_url", "image_url": {"url": address}}]
        engine.chat([{"role": "user", "content": parts}], PARAMS, use_tqdm=False)
        elsewhere = address.replace("127.0.0.1", "localhost")
        with pytest.raises(ImageError, match="localhost: not among the hosts"):
            engine.encode([elsewhere])
    with Engine(str(tmp_path), ray=False, device="cpu") as engine:
        for refused in (address, "http://169.254.169.254/latest"):
            with pytest.raises(ImageError, match="allowed_media_domains names no host"):
                engine.encode([refused])
        error = engine.generate([prompt(address)], PARAMS, use_tqdm=False)[0].error
        assert isinstance(error, ImageError)
