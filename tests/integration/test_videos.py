"""Videos in the prompts of Qwen2-VL, Qwen2.5-VL and LLaVA-OneVision against transformers, greedy
in float32."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plain_engine import PlainEngine
from prompt_states import continuation
from tiny_vlms import IMAGE, VIDEO, make_vlm, picture
from transformers import PreTrainedModel

from antiphon.config.errors import PromptError, VideoError
from antiphon.config.sampling import SamplingParams
from antiphon.engine.sync_engine import Engine as LocalEngine
from antiphon.inputs.images.pixels import Pixels
from antiphon.inputs.prepared import Prepared
from antiphon.inputs.processor import InputProcessor
from antiphon.scheduler.request import Media

OUTPUT = 12
Checkpoint = tuple[Path, PreTrainedModel]


@pytest.fixture(
    scope="module",
    params=["qwen2_5_vl", pytest.param("qwen2_vl", marks=pytest.mark.slow), "llava_onevision"],
)
def checkpoint(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Checkpoint:
    folder = tmp_path_factory.mktemp(request.param)
    return folder, make_vlm(request.param, folder)


def frames(seed: int, count: int, width: int = 24, height: int = 16) -> np.ndarray:
    shape = (count, height, width, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def film(path: Path, count: int, rate: int) -> Path:
    """A lossless video of `count` frames of random colors."""
    import av  # which a GPU machine may lack

    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 24, 16, "bgr0"
        for image in frames(9, count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def answer(model: PreTrainedModel, prepared: Prepared, fps: list[float]) -> Any:
    """By transformers. `fps`: of the frames of each video."""
    ids = torch.tensor([prepared.prompt_token_ids])
    given: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    pixels: dict[int, list[Pixels]] = {IMAGE: [], VIDEO: []}
    for part in prepared.inputs:
        assert part.position is not None
        pixels[int(ids[0, part.position])].append(Pixels.unpacked(part.payload))
    if model.config.model_type == "llava_onevision":
        return continuation(model, OUTPUT, **given, **in_tiles(pixels[IMAGE], pixels[VIDEO]))
    given["mm_token_type_ids"] = (ids == IMAGE).int() + 2 * (ids == VIDEO).int()
    names = {
        IMAGE: ("pixel_values", "image_grid_thw"),
        VIDEO: ("pixel_values_videos", "video_grid_thw"),
    }
    for token, (values, grids) in names.items():
        if media := pixels[token]:
            arrays = [torch.from_numpy(one.values.copy()).flatten(0, 2) for one in media]
            given[values] = torch.cat(arrays)
            given[grids] = torch.tensor([one.shape.pixels[:3] for one in media])
    if fps and model.config.model_type == "qwen2_5_vl":
        given["second_per_grid_ts"] = torch.tensor([2 / rate for rate in fps])
    return continuation(model, OUTPUT, **given)


def in_tiles(images: list[Pixels], videos: list[Pixels]) -> dict[str, Any]:
    """What LLaVA-OneVision is given of images in tiles and of videos in frames. transformers takes
    videos of equally many frames alone in one call."""
    given: dict[str, Any] = {}
    if images:
        tiles = [torch.from_numpy(image.values.copy()) for image in images]
        given["pixel_values"] = torch.nn.utils.rnn.pad_sequence(tiles, batch_first=True)
        given["image_sizes"] = torch.tensor([image.shape.size for image in images])
        given["batch_num_images"] = torch.tensor([len(images)])
    if videos:
        arrays = [torch.from_numpy(video.values.copy()) for video in videos]
        given["pixel_values_videos"] = torch.stack(arrays)
    return given


def prompts(folder: Path, count: int) -> list[tuple[dict[str, Any], list[float]]]:
    """With the rates of the frames that are read. `count`: frames of a video beside one of six."""
    video = film(folder / "film.mkv", 30, 10)
    return [
        ({"prompt": "w5 <video> w6 w7", "multi_modal_data": {"video": frames(0, 4)}}, [24.0]),
        (
            {
                "prompt": "w5 <image> w6 <video> w7 <video> w8 <image>",
                "multi_modal_data": {
                    "image": [picture(0), picture(1, 24, 24)],
                    "video": [(frames(1, count), {"fps": 1.0}), str(video)],
                },
            },
            [1.0, 2.0],
        ),
        ({"prompt": "w5 w6", "multi_modal_data": {}}, []),
        (
            {
                "prompt": "w9 <video> w8",
                "multi_modal_data": {"video": {"frames": frames(0, 4), "fps": 3}},
            },
            [3.0],
        ),
    ]


@pytest.mark.parametrize(
    "options", [{}, {"max_num_batched_tokens": 13, "kv_page_size": 4}], ids=["whole", "chunks"]
)
def test_tokens_and_logprobs_equal_transformers(
    options: dict[str, Any], checkpoint: Checkpoint, tmp_path: Path
) -> None:
    folder, model = checkpoint
    engine = PlainEngine(folder, max_num_seqs=6, **options)
    inputs = InputProcessor(engine.model)
    submitted = []
    count = 6 if model.config.model_type == "llava_onevision" else 5
    for prompt, fps in prompts(tmp_path, count):
        prepared = inputs.prepare(prompt, SamplingParams())
        assert prepared.prompt_token_ids is not None
        request = engine.request(None, prepared.prompt_token_ids, OUTPUT)
        request.inputs = tuple(
            Media(part.key, part.kind, part.num_tokens, part.payload, part.position, part.grid)
            for part in prepared.inputs
        )
        engine.submit(request)
        submitted.append((request, prepared, fps))
    finished = engine.run()
    for request, prepared, fps in submitted:
        tokens, logprobs = answer(model, prepared, fps)
        end = finished[request.id.number]
        assert end.token_ids == tokens
        own = [token.logprobs[0] for token in end.logprobs]
        np.testing.assert_allclose(own, logprobs, atol=1e-3)


def test_videos_in_chats_and_bad_ones(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder, model = checkpoint
    params = SamplingParams(max_tokens=OUTPUT, ignore_eos=True)
    file = film(tmp_path / "film.mkv", 30, 10).read_bytes()
    part = {"type": "video", "video": file}
    chat = [{"role": "user", "content": [part, {"type": "text", "text": "w7"}]}]
    with LocalEngine(str(folder), ray=False, device="cpu") as engine:
        (output,) = engine.chat(chat, params, use_tqdm=False)
        bad = [
            {"video": file[:1000]},
            {"video": {"frames": frames(0, 4)[0]}},
            {"video": [frames(0, 2)] * 2},
            {"video": (frames(0, 8), {"fps": 1e-2})},
        ]
        broken = engine.generate(
            [{"prompt": "<video>", "multi_modal_data": media} for media in bad], params, False
        )
        prepared = engine._async.inputs.prepare({"messages": chat}, params)
    assert output.outputs[0].token_ids == answer(model, prepared, [2.0])[0]
    expected = [
        (VideoError, "not readable as a video"),
        (VideoError, "[16, 24, 3]: give [frames, height, width, 3]"),
        (PromptError, "2 videos for 1 places"),
    ]
    if model.config.model_type == "qwen2_5_vl":
        expected.append((VideoError, "lies at position 2400 of 256"))
    for request, (kind, message) in zip(broken, expected, strict=False):
        assert type(request.error) is kind
        assert message in str(request.error)
