"""Pictures and videos are read when there is memory for them, whatever form they have."""

import asyncio
import base64
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from http_files import QuietHandler, serving
from PIL import Image
from tiny_vlms import make_vlm

from antiphon.config.errors import ImageError, InputError, PromptError, VideoError
from antiphon.config.options import ModelOptions
from antiphon.config.sampling import SamplingParams
from antiphon.engine.budget import ByteBudget
from antiphon.engine.preparation import Preparation
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.encoder_inputs import EncoderInputs
from antiphon.inputs.images.limits import Fetching, ImageLimits
from antiphon.inputs.images.sizes import most_bytes
from antiphon.inputs.processor import InputProcessor
from antiphon.inputs.unread import Unread

PARAMS = SamplingParams()
PIXELS = np.random.default_rng(1).integers(0, 256, (40, 24, 3), np.uint8)
FRAMES = np.random.default_rng(2).integers(0, 256, (5, 16, 24, 3), np.uint8)
LOCAL = Fetching(frozenset({"127.0.0.1"}), private=True, max_bytes=10_000)


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "PNG")
    return file.getvalue()


def film() -> bytes:
    import av  # which a GPU machine may lack

    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=2)
        stream.width, stream.height, stream.pix_fmt = 24, 16, "bgr0"
        for image in FRAMES:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


class Handler(QuietHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(film() if self.path == "/film" else png())


class Pipe(io.BytesIO):
    def seekable(self) -> bool:
        return False


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(Handler) as address:
        yield address


@pytest.fixture(scope="module", params=["qwen2_5_vl", "llava_onevision"])
def inputs(request: pytest.FixtureRequest, tmp_path_factory: Any) -> InputProcessor:
    folder: Path = tmp_path_factory.mktemp(request.param)
    make_vlm(request.param, folder)
    return InputProcessor(
        ModelConfig.load(ModelOptions(str(folder))), image_limits=ImageLimits(fetching=LOCAL)
    )


def begun(inputs: InputProcessor, kind: str, *sources: Any) -> Unread[Any]:
    text = f"w5 {f'<{kind}>' * len(sources)}"
    media = {kind: list(sources) if len(sources) > 1 else sources[0]}
    made = inputs.begin({"prompt": text, "multi_modal_data": media}, PARAMS)
    assert isinstance(made, Unread)
    return made


def kept(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "a file"
    path.write_bytes(content)
    return path


PICTURES: dict[str, Callable[[Path], Any]] = {
    "PIL": lambda _: Image.fromarray(PIXELS),
    "array": lambda _: PIXELS,
    "channels first": lambda _: np.moveaxis(PIXELS, -1, 0),
    "list": lambda _: [PIXELS.tolist()],  # of the only image
    "bytes": lambda _: png(),
    "bytearray": lambda _: bytearray(png()),
    "memoryview": lambda _: memoryview(png()),
    "open file": lambda _: io.BytesIO(png()),
    "data URI": lambda _: "data:image/png;base64," + base64.b64encode(png()).decode(),
    "row with bytes": lambda _: {"bytes": png(), "path": None},
    "row with path": lambda folder: {"path": str(kept(folder, png()))},
    "path": lambda folder: kept(folder, png()),
    "name": lambda folder: str(kept(folder, png())),
}
VIDEOS: dict[str, Callable[[Path], Any]] = {
    "array": lambda _: FRAMES,
    "images": lambda _: [Image.fromarray(frame) for frame in FRAMES],
    "frames and rate": lambda _: (FRAMES, {"fps": 2}),
    "mapping": lambda _: {"frames": FRAMES, "fps": 2},
    "bytes": lambda _: film(),
    "open file": lambda _: io.BytesIO(film()),
    "data URI": lambda _: "data:video/x-matroska;base64," + base64.b64encode(film()).decode(),
    "path": lambda folder: kept(folder, film()),
}
CASES = [("image", name) for name in PICTURES] + [("video", name) for name in VIDEOS]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_what_every_form_takes_is_known_before_it_is_read(
    inputs: InputProcessor, kind: str, name: str, tmp_path: Path
) -> None:
    source = {"image": PICTURES, "video": VIDEOS}[kind][name](tmp_path)
    unread = begun(inputs, kind, source)
    expected, again = unread.expected_bytes(), unread.expected_bytes()
    takes = unread.read().nbytes
    decoded = PIXELS.nbytes if kind == "image" else FRAMES.nbytes
    assert takes < expected == again
    assert expected <= 1.3 * (takes + decoded)  # sizes are rounded to whole patches


def test_a_stream_that_cannot_be_rewound_is_taken_for_the_largest(inputs: InputProcessor) -> None:
    half: Any = inputs.model.encoder
    unread = begun(inputs, "image", Pipe(png()))
    assert unread.expected_bytes() > most_bytes(half) > unread.read().nbytes


@pytest.mark.parametrize(("kind", "error"), [("image", ImageError), ("video", VideoError)])
def test_what_is_broken_takes_nothing(inputs: InputProcessor, kind: str, error: type) -> None:
    unread = begun(inputs, kind, b"neither")
    assert unread.expected_bytes() == 0
    with pytest.raises(error):
        unread.read()


@pytest.mark.parametrize("kind", ["image", "video"])
def test_what_is_behind_an_address_is_fetched_before_it_is_measured(
    inputs: InputProcessor, address: str, kind: str
) -> None:
    path = "film" if kind == "video" else "picture"
    unread = begun(inputs, kind, f"{address}/{path}")
    assert unread.addresses == [f"{address}/{path}"]
    there = unread.fetched(unread.addresses[0])
    content = film() if kind == "video" else png()
    assert (there.addresses, there.fetched_bytes) == ([], len(content))
    assert there.read().media.key == begun(inputs, kind, content).read().media.key


def test_a_video_that_cannot_be_fetched_is_said_of_a_video(inputs: InputProcessor) -> None:
    unread = begun(inputs, "video", "http://elsewhere.example/film")
    with pytest.raises(VideoError, match="not among the hosts"):
        unread.fetched(unread.addresses[0])


@pytest.mark.parametrize("encodes", [False, True])
def test_many_at_once_stay_within_the_bound(
    inputs: InputProcessor, address: str, encodes: bool
) -> None:
    """Prompts, and inputs of `encode`. Those from addresses need room for what they may be."""

    async def run() -> None:
        preparation = Preparation(inputs)
        preparation.memory = memory = ByteBudget(100_000)
        preparation.start()
        there, most, begin = 0, 0, EncoderInputs(inputs).begin

        async def use(number: int) -> None:
            nonlocal there, most
            source = f"{address}/{number}" if number % 4 == 0 else PIXELS
            prompt = {"prompt": "w5 <image>", "multi_modal_data": {"image": source}}
            async with memory.hold(0) as held:
                media: Any
                if encodes:
                    media = await preparation.read(held, begin, source)
                else:
                    media = await preparation.prepared(held, prompt, PARAMS, (None, None))
                there += media.nbytes
                most = max(most, there)
                assert there <= memory.held <= memory.limit
                await asyncio.sleep(0.002)
                there -= media.nbytes

        await asyncio.gather(*map(use, range(32)))
        assert memory.held == 0
        assert 0 < most <= memory.limit
        preparation.stop()

    asyncio.run(run())


@pytest.mark.parametrize(("free", "calls"), [(1 << 30, 1), (1 << 20, 2)])
def test_a_small_picture_is_read_in_one_go(
    inputs: InputProcessor, monkeypatch: pytest.MonkeyPatch, free: int, calls: int
) -> None:
    """Where the memory for it is free at once: one caller waits for one call of a thread."""
    preparation, asked = Preparation(inputs), list[str]()
    preparation.memory = ByteBudget(free)
    in_thread = preparation.run_in_thread

    async def counted(function: Any, *args: Any, **kwargs: Any) -> Any:
        asked.append(getattr(function, "__name__", ""))
        return await in_thread(function, *args, **kwargs)

    monkeypatch.setattr(preparation, "run_in_thread", counted)
    prompt = {"prompt": "w5 <image>", "multi_modal_data": {"image": PIXELS}}

    async def run() -> None:
        async with preparation.memory.hold(0) as held:
            prepared = await preparation.prepared(held, prompt, PARAMS, (None, None))
            assert preparation.memory.held == prepared.nbytes > 0
        assert preparation.memory.held == 0

    preparation.start()
    asyncio.run(run())
    preparation.stop()
    assert len(asked) == calls


def test_an_address_that_stands_twice_is_fetched_once(inputs: InputProcessor, address: str) -> None:
    several = [f"{address}/picture", PIXELS, f"{address}/picture"]
    prompt = {"prompt": "w5 <image><image><image>", "multi_modal_data": {"image": several}}
    made = inputs.begin(prompt, PARAMS)
    assert isinstance(made, Unread)
    assert made.addresses == [f"{address}/picture"]
    assert made.fetched(made.addresses[0]).addresses == []


@pytest.mark.parametrize(("kind", "error"), [("image", ImageError), ("video", VideoError)])
def test_an_error_says_which_of_several_it_is_of(
    inputs: InputProcessor, kind: str, error: type[InputError]
) -> None:
    good = PIXELS if kind == "image" else FRAMES
    with pytest.raises(error, match=rf"^{kind} 2 of 3: 7 bytes: not readable as an? {kind}"):
        begun(inputs, kind, good, b"neither", good).read()
    with pytest.raises(error, match=r"^7 bytes: not readable"):  # there is no other
        begun(inputs, kind, b"neither").read()
    address = "http://elsewhere.example/one"
    with pytest.raises(error, match=rf"^{kind} 3 of 3: .*not among the hosts"):
        begun(inputs, kind, good, good, address).fetched(address)


def test_an_error_says_which_frame_it_is_of(inputs: InputProcessor) -> None:
    frames = [Image.fromarray(FRAMES[0]), b"neither", Image.fromarray(FRAMES[1])]
    with pytest.raises(VideoError, match=r"^frame 2 of 3: 7 bytes: not readable as an image"):
        begun(inputs, "video", {"frames": frames}).read()
    with pytest.raises(VideoError, match=r"^video 2 of 2: frame 2 of 3: 7 bytes"):
        begun(inputs, "video", FRAMES, {"frames": frames}).read()


def test_an_error_says_which_of_several_prompts_it_is_of(inputs: InputProcessor) -> None:
    prompts: list[Any] = ["w5", {"prompt": "w5 <image>", "multi_modal_data": {"image": b"neither"}}]
    preparation = Preparation(inputs)

    async def prepare(*wanted: Any) -> None:
        async with preparation.all_prepared(wanted, PARAMS, (None, None)):
            pass

    preparation.start()
    with pytest.raises(ImageError, match=r"^prompt 2 of 2: 7 bytes: not readable"):
        asyncio.run(prepare(*prompts))
    with pytest.raises(PromptError, match=r"^prompt 1 of 2: "):
        asyncio.run(prepare({"prompt_token_ids": [-1]}, "w5"))
    with pytest.raises(ImageError, match=r"^7 bytes"):
        asyncio.run(prepare(prompts[1]))
    preparation.stop()
