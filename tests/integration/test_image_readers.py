"""Decoders that attend to an image against transformers, greedy in float32: tokens and
log-probabilities, however requests are batched."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_once import made_once
from oracle import LOGPROB_TOLERANCE, TOLERANCE, oracle
from plain_engine import PlainEngine
from ranked_engine import RankedEngine
from tiny_readers import END, READERS, START, make_reader
from tiny_vlms import picture
from transformers import PreTrainedModel

from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.errors import ConfigurationError, UnsupportedModelError
from antiphon.config.parallel import Parallel
from antiphon.config.sampling import SamplingParams
from antiphon.engine.sync_engine import Engine
from antiphon.inputs.images.pixels import Pixels
from antiphon.inputs.prepared import Prepared
from antiphon.inputs.processor import InputProcessor
from antiphon.layers.checkpoint import Checkpoint
from antiphon.layers.quantization.kv_scales import ProjectionInput
from antiphon.scheduler.request import Media

SIZES = [(40, 24), (24, 24), (30, 66), (100, 20), (7, 9)]
LENGTH = 16
OPTIONS = {"max_num_seqs": 4, "kv_page_size": 4}
FAST = ("trocr_sinusoidal", "donut")
NAMES = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in READERS]
RULES = DecodingRules(stop_ids=(END,))
Made = Callable[[str], tuple[Path, PreTrainedModel]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Checkpoints by name, each made once."""
    return made_once(make_reader, tmp_path_factory)


class Reader(PlainEngine):
    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(folder, **{**OPTIONS, **options})
        self.inputs = InputProcessor(self.model)

    def ask(self, prompt: dict[str, Any]) -> Prepared:
        return ask(self, self.inputs, prompt)


def ask(engine: PlainEngine, inputs: InputProcessor, prompt: dict[str, Any]) -> Prepared:
    """Submits `prompt` to `engine`."""
    prepared = inputs.prepare(prompt, SamplingParams())
    assert prepared.prompt_token_ids is not None
    request = engine.request(None, prepared.prompt_token_ids, LENGTH, RULES)
    media = prepared.media
    request.inputs = (Media(media.key, media.kind, media.num_tokens, media.payload),)
    engine.submit(request)
    return prepared


def prompts() -> list[dict[str, Any]]:
    """Pictures of mixed sizes, one of them twice, with texts for the decoder and without."""
    texts = [None, "<s> w7 w8 w9", "w9", None, "w50 <pad> w51 w52", "w5 w5"]
    return [
        {
            "encoder_prompt": {"multi_modal_data": {"image": picture(seed % 5, *SIZES[seed % 5])}},
            "decoder_prompt": text,
        }
        for seed, text in enumerate(texts)
    ]


def pixels(prepared: Prepared) -> torch.Tensor:
    return torch.from_numpy(Pixels.unpacked(prepared.media.payload).values.copy())


@pytest.mark.parametrize("staggered", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_tokens_and_logprobs_equal_transformers(name: str, staggered: bool, made: Made) -> None:
    """`staggered`: requests come while others run, in rounds of three steps."""
    folder, model = made(name)
    engine = Reader(folder, warm=staggered, num_scheduler_steps=3 if staggered else 1)
    asked = []
    for prompt in prompts():
        asked.append(engine.ask(prompt))
        if staggered:
            engine.step()
    assert asked[2].prompt_token_ids == ([9] if name == "donut" else [START, 9])
    finished = engine.run()
    seen: Counter[int] = Counter()
    for number, prepared in enumerate(asked):
        prompt = prepared.prompt_token_ids
        assert prompt is not None
        tokens, logprobs = oracle(model, pixels(prepared), prompt, LENGTH)
        assert finished[number].token_ids == tokens, f"request {number}"
        got = [token.logprobs[0] for token in finished[number].logprobs]
        np.testing.assert_allclose(got, logprobs, atol=LOGPROB_TOLERANCE)
        seen += Counter(tokens)
    assert len(seen) > 15, f"the checkpoint repeats itself: {seen}"
    engine.replica.scheduler.pages.check()


@torch.inference_mode()
@pytest.mark.parametrize("name", NAMES)
def test_encoder_output_equals_transformers(name: str, made: Made) -> None:
    """What the decoder attends to: with the layer between both halves, where there is one."""
    folder, model = made(name)
    engine = Reader(folder)
    images = [engine.inputs.prepare(prompt, SamplingParams()) for prompt in prompts()[:3]]
    assert engine.encoder is not None
    encoded = engine.encoder.encode([image.media.payload for image in images])
    for image, hidden in zip(images, encoded.hidden.split(encoded.lengths), strict=True):
        expected = model.encoder(pixels(image)).last_hidden_state[0]
        if hasattr(model, "enc_to_dec_proj"):
            expected = model.enc_to_dec_proj(expected)
        assert len(hidden) == image.media.num_tokens
        scale = expected.abs().max()
        torch.testing.assert_close(hidden / scale, expected / scale, atol=TOLERANCE, rtol=0)


def test_engine_reads_images_of_every_form(made: Made, tmp_path: Path) -> None:
    """One request with a bad image or none does not touch the others."""
    folder, model = made("trocr_sinusoidal")
    image = picture(1, 50, 31)
    image.save(tmp_path / "image.png")
    forms = [
        image, np.asarray(image), tmp_path / "image.png", (tmp_path / "image.png").read_bytes()
    ]  # fmt: skip
    asked = [{"multi_modal_data": {"image": form}} for form in forms]
    wrong = [
        {"multi_modal_data": {"image": b"no image"}},
        {"prompt": "w7"},
        {"multi_modal_data": {"image": [image, image]}},
        {"encoder_prompt": {"prompt": "w7", "multi_modal_data": {"image": image}}},
    ]
    params = SamplingParams(max_tokens=9, ignore_eos=True)
    with Engine(str(folder), ray=False, device="cpu") as engine:
        outputs = engine.generate([*wrong, *asked], params, use_tqdm=False)
        started = engine.generate({**asked[0], "prompt": "w8 w9"}, params, use_tqdm=False)[0]
        whole = engine.generate(asked[0], use_tqdm=False)[0].outputs[0]
        hidden = engine.encode([image])[0]
        prepared = engine._async.inputs.prepare(asked[0], params)
        assert engine.stats()["encodes"] == 1  # of one image, for six requests
    errors = [output.error for output in outputs[: len(wrong)]]
    assert [type(error).__name__ for error in errors] == ["ImageError", *["PromptError"] * 3]
    for output in outputs[len(wrong) :]:
        assert output.prompt_token_ids == [START]
        tokens, _ = oracle(model, pixels(prepared), [START], 9, eos_token_id=None)
        assert output.outputs[0].token_ids == tokens
    assert started.prompt_token_ids == [START, 8, 9]
    assert len(whole.token_ids) <= 19  # max_length of the generation config, with the first token
    assert hidden.shape == (prepared.media.num_tokens, 48)


@pytest.mark.parametrize(
    ("name", "parallel"),
    [
        ("trocr", Parallel(2)),  # cross-attention reads another width
        pytest.param("trocr_sinusoidal", Parallel(2, 2), marks=pytest.mark.slow),
        pytest.param("donut", Parallel(3), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_several_ranks_give_what_one_gives(name: str, parallel: Parallel, made: Made) -> None:
    alone = Reader(made(name)[0])
    for prompt in prompts():
        alone.ask(prompt)
    expected = alone.run()
    with RankedEngine(made(name)[0], parallel, **OPTIONS) as engine:
        for prompt in prompts():
            ask(engine, alone.inputs, prompt)
        finished = engine.run()
    for number, end in expected.items():
        assert finished[number].token_ids == end.token_ids
        np.testing.assert_allclose(
            [token.logprobs[0] for token in finished[number].logprobs],
            [token.logprobs[0] for token in end.logprobs],
            atol=LOGPROB_TOLERANCE,
        )


@torch.inference_mode()
def test_float8_caches_hold_what_is_made_of_projected_states(made: Made) -> None:
    """The layer between both halves is part of the bound."""
    folder, model = made("trocr_sinusoidal")
    engine = Reader(folder, kv_cache_dtype="fp8")
    bound = ProjectionInput.of_encoder(
        engine.model.encoder, Checkpoint(folder), torch.device("cpu")
    )
    payloads = [
        engine.inputs.prepare(prompt, SamplingParams()).media.payload for prompt in prompts()
    ]
    hidden = engine.encoder.encode(payloads).hidden
    for layer in model.decoder.model.decoder.layers:
        for made_of in (layer.encoder_attn.k_proj, layer.encoder_attn.v_proj):
            most = bound.largest(made_of.weight, made_of.bias)
            assert most / 30 < float(made_of(hidden).abs().max()) <= most
    engine.ask(prompts()[0])
    assert engine.run()[0].token_ids


def test_float8_caches_need_a_bound(made: Made) -> None:
    with pytest.raises(ConfigurationError, match="no norm bounds what this encoder gives"):
        Reader(made("donut")[0], kv_cache_dtype="fp8")


def test_decoders_of_other_structures_are_refused(made: Made, tmp_path: Path) -> None:
    shutil.copytree(made("trocr")[0], tmp_path / "copy")
    file = tmp_path / "copy" / "config.json"
    config = json.loads(file.read_text())
    config["decoder"] = {"model_type": "bert", "hidden_size": 48}
    file.write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match="'bert'; supported: trocr"):
        Reader(tmp_path / "copy")


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_images_through_ray(made: Made) -> None:
    """Both halves in processes of their own."""
    folder, model = made("vit_bart")
    params = SamplingParams(max_tokens=LENGTH)
    with Engine(str(folder), device="cpu", placement="disaggregated") as engine:
        outputs = engine.generate(prompts(), params, use_tqdm=False)
        inputs = engine._async.inputs
        asked = [inputs.prepare(prompt, params) for prompt in prompts()]
    for prepared, output in zip(asked, outputs, strict=True):
        assert output.prompt_token_ids == prepared.prompt_token_ids
        tokens, _ = oracle(model, pixels(prepared), output.prompt_token_ids, LENGTH)
        assert output.outputs[0].token_ids == tokens
