"""Images in the prompts of decoders against transformers, greedy in float32: tokens and
log-probabilities, however requests are batched, cut into chunks, preempted and shared."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plain_engine import PlainEngine
from quantized_checkpoints import METHODS, publish
from tiny_vlms import VLMS, make_vlm, picture
from transformers import PreTrainedModel
from vlm_oracle import answer

from antiphon.config.errors import PromptError
from antiphon.config.sampling import SamplingParams
from antiphon.engine.sync_engine import Engine as LocalEngine
from antiphon.inputs.prepared import Prepared
from antiphon.inputs.processor import InputProcessor
from antiphon.scheduler.request import Media, Request

OUTPUT = 14
Checkpoint = tuple[Path, PreTrainedModel]
SIZES = [(40, 24), (24, 24), (30, 66), (100, 20)]


FAST = ("llava_onevision", "qwen2_vl")


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in VLMS],
)
def checkpoint(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Checkpoint:
    folder = tmp_path_factory.mktemp(request.param)
    return folder, make_vlm(request.param, folder)


class Engine(PlainEngine):
    def __init__(self, checkpoint: Checkpoint, **options: Any) -> None:
        super().__init__(checkpoint[0], **{"max_num_seqs": 6, **options})
        self.inputs = InputProcessor(self.model)
        self.encoded = 0

    def run_encoders(self) -> None:
        self.encoded += len(self.unencoded)
        super().run_encoders()

    def ask(self, prompt: dict[str, Any]) -> tuple[Request, Prepared]:
        prepared = self.inputs.prepare(prompt, SamplingParams())
        assert prepared.prompt_token_ids is not None
        request = self.request(None, prepared.prompt_token_ids, OUTPUT)
        request.inputs = tuple(
            Media(part.key, part.kind, part.num_tokens, part.payload, part.position, part.grid)
            for part in prepared.inputs
        )
        self.submit(request)
        return request, prepared


def prompts() -> list[dict[str, Any]]:
    """With none to three images, of mixed sizes, some of them twice."""
    made = []
    for seed, images in enumerate([[0], [1, 2], [], [3], [0, 1, 0], [2]]):
        words = np.random.default_rng(seed).integers(5, 90, 4 + 7 * len(images))
        text = [f"w{id_}" for id_ in words]
        for count in range(len(images)):
            text.insert(2 + 6 * count, "<image>")
        pictures = [picture(number, *SIZES[number]) for number in images]
        made.append({"prompt": " ".join(text), "multi_modal_data": {"image": pictures}})
    return made


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_num_batched_tokens": 13, "kv_page_size": 4, "enable_prefix_caching": False},
        pytest.param(
            {"kv_page_size": 4, "num_kv_pages": 29, "encode_ahead_tokens": 30},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["whole", "chunks", "preempted"],
)
def test_tokens_and_logprobs_equal_transformers(
    options: dict[str, Any], checkpoint: Checkpoint
) -> None:
    engine = Engine(checkpoint, **options)
    submitted = [engine.ask(prompt) for prompt in prompts()]
    finished = engine.run()
    if not options:
        # LLaVA-OneVision reads two of them twice: alone in tiles, and whole beside others.
        distinct = 6 if engine.model.encoder.tiled_alone else 4
        assert engine.encoded == distinct, "an image in several prompts is encoded once"
        submitted += [engine.ask(prompt) for prompt in prompts()]
        finished = engine.run()
        assert engine.encoded == distinct
        assert engine.replica.scheduler.counters["prefix_cache_hits"] > 50
    for request, prepared in submitted:
        tokens, logprobs = answer(checkpoint[1], prepared, OUTPUT)
        end = finished[request.id.number]
        assert end.token_ids == tokens
        own = [token.logprobs[0] for token in end.logprobs]
        np.testing.assert_allclose(own, logprobs, atol=1e-3)
    scheduler = engine.replica.scheduler
    if "num_kv_pages" in options:
        assert scheduler.counters["preemptions"] > 0
    assert scheduler.encodes.tokens == 0
    scheduler.batch.check()


def test_wrong_numbers_of_images_are_refused(checkpoint: Checkpoint) -> None:
    inputs = Engine(checkpoint).inputs
    for text, images, message in [
        ("w7 w8", [picture(0)], "1 images for 0 places: the prompt must have '<image>' once"),
        ("w7 <image>", [], "0 images for 1 places"),
        ("<image> " * 65, [picture(0)] * 65, r"65 images in a prompt; at most 64 .*limit_images"),
    ]:
        prompt = {"prompt": text, "multi_modal_data": {"image": images}}
        with pytest.raises(PromptError, match=message):
            inputs.prepare(prompt, SamplingParams())


def test_a_chat_of_several_turns(checkpoint: Checkpoint) -> None:
    """Its image is encoded once, and shared with a prompt of another form."""
    folder, model = checkpoint
    params = SamplingParams(max_tokens=OUTPUT, ignore_eos=True)
    ask = {"type": "text", "text": "w7 w8 w9 " * 6}
    first = [{"role": "user", "content": [{"type": "image", "image": picture(5)}, ask]}]
    with LocalEngine(str(folder), ray=False, device="cpu") as engine:
        inputs = engine._async.inputs
        (output,) = engine.chat(first, params, use_tqdm=False)
        text = {"type": "text", "text": output.outputs[0].text}
        second = [
            *first,
            {"role": "assistant", "content": [text]},
            {"role": "user", "content": "w9"},
        ]
        (later,) = engine.chat(second, params, use_tqdm=False)
        prompt = {"prompt": "w5 <image> w6", "multi_modal_data": {"image": picture(5)}}
        other, broken = engine.generate([prompt, {**prompt, "prompt": "w5"}], params, False)
        stats = engine.stats()
    assert stats["encodes"] == 1
    assert stats["prefix_cache_hits"] > 0
    assert isinstance(broken.error, PromptError)
    for asked, got in (
        ({"messages": first}, output),
        ({"messages": second}, later),
        (prompt, other),
    ):
        prepared = inputs.prepare(asked, SamplingParams())
        assert got.prompt_token_ids == prepared.prompt_token_ids
        assert got.outputs[0].token_ids == answer(model, prepared, OUTPUT)[0]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_images_through_ray(tmp_path: Path) -> None:
    """In processes of their own for both halves, images and their grids travel."""
    model = make_vlm("qwen2_vl", tmp_path)
    params = SamplingParams(max_tokens=OUTPUT, ignore_eos=True)
    with LocalEngine(str(tmp_path), device="cpu", placement="disaggregated") as engine:
        inputs = engine._async.inputs
        outputs = engine.generate(prompts(), params, use_tqdm=False)
        assert engine.stats()["encodes"] == len(SIZES)
    for prompt, output in zip(prompts(), outputs, strict=True):
        prepared = inputs.prepare(prompt, SamplingParams())
        assert output.outputs[0].token_ids == answer(model, prepared, OUTPUT)[0]


@pytest.mark.parametrize(
    ("name", "method", "kept_out"),
    [
        ("qwen2_vl", "w4a16 with zero points", ("visual", "vision")),
        ("llava_onevision", "w8a16 with zero points", ()),
    ],
)
def test_quantised_weights(name: str, method: str, kept_out: Any, tmp_path: Path) -> None:
    """Of the decoder alone, as they are published, and of all that reads pictures too."""
    model = make_vlm(name, tmp_path / "plain")
    publish(model, tmp_path / "plain", tmp_path / "quantised", METHODS[method], kept_out)
    engine = Engine((tmp_path / "quantised", model), max_model_len=128, kv_page_size=8)
    asked = [engine.ask(prompt) for prompt in prompts()]
    finished = engine.run()
    for request, prepared in asked:
        tokens, logprobs = answer(model, prepared, OUTPUT)
        end = finished[request.id.number]
        assert list(end.token_ids) == tokens
        found = [token.logprobs[0] for token in end.logprobs]
        np.testing.assert_allclose(found, logprobs, atol=1e-3)
