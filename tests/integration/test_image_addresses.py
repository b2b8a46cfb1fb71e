"""Images behind addresses, through the engine: in prompts, in chats, and for the encoder alone."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from http_files import QuietHandler, serving
from tiny_vlms import make_vlm, picture

from antiphon import Engine, SamplingParams
from antiphon.config.errors import ImageError

PARAMS = SamplingParams(temperature=0.0, max_tokens=6, logprobs=0)


class Handler(QuietHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        picture(3).save(self.wfile, "PNG")


@pytest.fixture
def address() -> Iterator[str]:
    with serving(Handler) as address:
        yield f"{address}/image.png"


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
            engine.encode(elsewhere)
    with Engine(str(tmp_path), ray=False, device="cpu") as engine:
        for refused in (address, "http://169.254.169.254/latest"):
            with pytest.raises(ImageError, match="allowed_media_domains names no host"):
                engine.encode(refused)
        error = engine.generate([prompt(address)], PARAMS, use_tqdm=False)[0].error
        assert isinstance(error, ImageError)
