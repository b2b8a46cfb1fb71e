"""Florence-2 against transformers, greedy in float32: an image and what is asked about it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracle import LOGPROB_TOLERANCE, TOLERANCE
from plain_engine import PlainEngine
from ranked_encoder import ranked_encoder
from ranked_engine import RankedEngine
from tiny_florence import END, IMAGE, START, make_florence
from tiny_vision import pixels
from tiny_vlms import picture
from transformers import PreTrainedModel

from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.errors import ConfigurationError, UnsupportedModelError
from antiphon.config.options import ModelOptions, resolve
from antiphon.config.parallel import Parallel
from antiphon.config.sampling import SamplingParams
from antiphon.encoder.runner import EncoderRunner
from antiphon.engine.sync_engine import Engine
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.images.pixels import Pixels
from antiphon.inputs.prepared import Prepared
from antiphon.inputs.processor import InputProcessor
from antiphon.layers.shard import check_parallel
from antiphon.scheduler.request import Media

LENGTH = 14
OPTIONS = {"max_num_seqs": 4, "kv_page_size": 4}
RULES = DecodingRules(stop_ids=(END,))
Made = tuple[Path, PreTrainedModel]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("florence")
    return folder, make_florence(folder)


def prompts() -> list[dict[str, Any]]:
    """Texts of all kinds about pictures of mixed sizes; one picture is asked about twice."""
    sizes = [(40, 24), (24, 24), (30, 66), (100, 20), (7, 9)]
    texts = [
        "<CAPTION>",
        "w7 w8 w9",
        "<OD>",
        None,
        "<CAPTION_TO_PHRASE_GROUNDING> w5 w6 w70",
        " ".join(f"w{number}" for number in range(3, 43)),
    ]
    made = []
    for seed, text in enumerate(texts):
        prompt: dict[str, Any] = {
            "multi_modal_data": {"image": picture(seed % 5, *sizes[seed % 5])}
        }
        made.append(prompt if text is None else {**prompt, "prompt": text})
    return made


def ask(engine: PlainEngine, inputs: InputProcessor, prompt: dict[str, Any]) -> Prepared:
    """Submits `prompt` to `engine`."""
    prepared = inputs.prepare(prompt, SamplingParams())
    assert prepared.prompt_token_ids is not None
    request = engine.request(None, prepared.prompt_token_ids, LENGTH, RULES)
    media = prepared.media
    request.inputs = (Media(media.key, media.kind, media.num_tokens, media.payload),)
    engine.submit(request)
    return prepared


def given(image: Pixels) -> dict[str, torch.Tensor]:
    """What transformers takes: a placeholder for each row of the image, then its text."""
    rows = 1
    height, width = image.shape.pixels[2:]
    sides = [((side - 1) // 4 + 1 - 1) // 2 + 1 for side in (height, width)]
    rows += sides[0] * sides[1]
    ids = torch.tensor([[IMAGE] * rows + image.text.tolist()])
    return {"input_ids": ids, "pixel_values": torch.from_numpy(image.values.copy())}


def answer(model: PreTrainedModel, image: Pixels, most: int) -> tuple[list[int], list[float]]:
    output = model.generate(
        **given(image), max_new_tokens=most, do_sample=False, num_beams=1, output_logits=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    tokens = output.sequences[0, 1:].tolist()
    pairs = zip(output.logits, tokens, strict=True)
    return tokens, [logits[0].log_softmax(-1)[token].item() for logits, token in pairs]


@pytest.mark.parametrize("staggered", [False, True])
def test_tokens_and_logprobs_equal_transformers(staggered: bool, made: Made) -> None:
    """`staggered`: requests come while others run, in rounds of three steps."""
    folder, model = made
    engine = PlainEngine(
        folder, **OPTIONS, warm=staggered, num_scheduler_steps=3 if staggered else 1
    )
    inputs, asked = InputProcessor(engine.model), []
    for prompt in prompts():
        asked.append(ask(engine, inputs, prompt))
        if staggered:
            engine.step()
    finished = engine.run()
    seen = set()
    for number, prepared in enumerate(asked):
        assert prepared.prompt_token_ids == [START]
        tokens, logprobs = answer(model, Pixels.unpacked(prepared.media.payload), LENGTH)
        assert finished[number].token_ids == tokens, f"request {number}"
        got = [token.logprobs[0] for token in finished[number].logprobs]
        np.testing.assert_allclose(got, logprobs, atol=LOGPROB_TOLERANCE)
        seen |= set(tokens)
    assert len(seen) > 15, f"the checkpoint repeats itself: {seen}"


def mixed() -> list[np.ndarray]:
    """Images of mixed sizes, with and without a text."""
    sizes = [(44, 60), (44, 60), (33, 21), (8, 8), (61, 70)]
    rng = np.random.default_rng(3)
    images = []
    for seed, (size, words) in enumerate(zip(sizes, (5, 0, 9, 1, 3), strict=True)):
        image = Pixels.unpacked(pixels(seed, 1, 3, *size))
        text = rng.integers(3, 60, words)
        images.append(Pixels(image.shape, image.values, text).packed())
    return images


@torch.inference_mode()
def expected(model: PreTrainedModel, packed: np.ndarray) -> torch.Tensor:
    """What the decoder attends to, by transformers [tokens, hidden]."""
    inputs = given(Pixels.unpacked(packed))
    core = model.model
    embedded = core.get_input_embeddings()(inputs["input_ids"])
    rows = core.get_image_features(inputs["pixel_values"]).pooler_output
    embedded[:, : rows.shape[1]] = rows
    hidden: torch.Tensor = core.language_model.encoder(inputs_embeds=embedded).last_hidden_state
    return hidden[0]


def test_encoder_output_equals_transformers(made: Made, caplog: pytest.LogCaptureFixture) -> None:
    """Images of mixed sizes in one batch; every tensor is loaded, or ignored for a reason."""
    folder, model = made
    config = resolve(str(folder), {"device": "cpu"})
    with caplog.at_level("WARNING", "antiphon"):
        runner = EncoderRunner(ModelConfig.load(config.model), config)
        encoded = runner.encode(mixed())
    assert caplog.messages == []
    for packed, hidden in zip(mixed(), encoded.hidden.split(encoded.lengths), strict=True):
        wanted = expected(model, packed)
        assert hidden.shape == wanted.shape
        assert (hidden - wanted).abs().max() <= TOLERANCE * wanted.abs().max()


@pytest.mark.parametrize(
    "parallel",
    [Parallel(2), pytest.param(Parallel(2, 2), marks=pytest.mark.slow)],
    ids=str,
)
def test_several_ranks_give_what_one_gives(parallel: Parallel, made: Made) -> None:
    """3 heads in windows and 2 groups of channels: uneven shares."""
    folder, model = made
    with ranked_encoder(folder, parallel) as runner:
        encoded = runner.encode(mixed())
    for packed, hidden in zip(mixed(), encoded.hidden.split(encoded.lengths), strict=True):
        wanted = expected(model, packed)
        assert (hidden - wanted).abs().max() <= TOLERANCE * wanted.abs().max()
    inputs = InputProcessor(ModelConfig.load(ModelOptions(str(folder))))
    with RankedEngine(folder, parallel, **OPTIONS) as engine:
        asked = [ask(engine, inputs, prompt) for prompt in prompts()[:3]]
        finished = engine.run()
    for number, prepared in enumerate(asked):
        tokens, _ = answer(model, Pixels.unpacked(prepared.media.payload), LENGTH)
        assert finished[number].token_ids == tokens


def test_ranks_that_share_inputs_give_the_same(made: Made) -> None:
    """Each image goes with its text; the last rank may have none."""
    folder, model = made
    with ranked_encoder(folder, Parallel(2, mode="data")) as runner:
        for inputs in (mixed(), mixed()[:1]):
            encoded = runner.encode(inputs)
            hidden = encoded.hidden.split(encoded.lengths)
            for packed, states in zip(inputs, hidden, strict=True):
                wanted = expected(model, packed)
                assert (states - wanted).abs().max() <= TOLERANCE * wanted.abs().max()


def test_more_ranks_than_groups_of_channels_are_refused(made: Made) -> None:
    half = ModelConfig.load(ModelOptions(str(made[0]))).encoder
    assert half is not None
    with pytest.raises(ConfigurationError, match="2 heads of attention, and each rank needs one"):
        check_parallel(half, Parallel(3))
    check_parallel(half, Parallel(3, mode="data"))


def test_engine_answers_and_refuses(made: Made) -> None:
    """One bad request does not touch the others."""
    folder, model = made
    image = picture(1, 50, 31)
    wrong = [
        {"prompt": "<CAPTION>"},
        {"prompt": "<CAPTION> w7", "multi_modal_data": {"image": image}},
        {"prompt": "w7", "multi_modal_data": {"image": [image, image]}},
        {"prompt": "w7 " * 200, "multi_modal_data": {"image": image}},
        {"prompt_token_ids": [IMAGE, 7], "multi_modal_data": {"image": image}},
        {"prompt_token_ids": [5000], "multi_modal_data": {"image": image}},
        {"prompt": "w7", "multi_modal_data": {"image": b"no image"}},
    ]
    asked = [
        {"prompt": "<OD>", "multi_modal_data": {"image": image}},
        {"prompt_token_ids": [0, 9, 8, 1], "multi_modal_data": {"image": image}},
        {
            "encoder_prompt": {"prompt": "<OD>", "multi_modal_data": {"image": image}},
            "decoder_prompt": "w8 w9",
        },
    ]
    params = SamplingParams(max_tokens=9)
    with Engine(str(folder), ray=False, device="cpu") as engine:
        outputs = engine.generate([*wrong, *asked], params, use_tqdm=False)
        inputs = engine._async.inputs
        hidden = engine.encode([image, asked[0]])
        prepared = [inputs.prepare(prompt, params) for prompt in asked]
        assert engine.stats()["encodes"] == 2  # of one image with two texts, for three requests
    messages = [str(output.error) for output in outputs[: len(wrong)]]
    reasons = [
        "one image in each prompt", "stands alone", "2 images", "over the encoder's 160",
        "stands for the image: leave it out", "token id 5000", "image",
    ]  # fmt: skip
    for message, reason in zip(messages, reasons, strict=True):
        assert reason in message
    for output, part in zip(outputs[len(wrong) :][:2], prepared, strict=False):
        tokens, _ = answer(model, Pixels.unpacked(part.media.payload), 9)
        assert output.outputs[0].token_ids == tokens
    assert outputs[-1].prompt_token_ids == [START, 8, 9]
    assert [len(rows) for rows in hidden] == [49 + 2, prepared[0].media.num_tokens]


def test_other_formats_are_refused(made: Made, tmp_path: Path) -> None:
    """That of its authors has the same architecture and other names."""
    (tmp_path / "config.json").write_text(
        '{"architectures": ["Florence2ForConditionalGeneration"], "model_type": "florence2",'
        ' "vision_config": {"dim_embed": [128, 256]}}'
    )
    with pytest.raises(UnsupportedModelError, match="florence-community/Florence-2-base"):
        ModelConfig.load(ModelOptions(str(tmp_path)))
