"""Llama 3.2 Vision against transformers, greedy in float32: tokens and log-probabilities, however
images stand in prompts and requests are batched, cut, preempted and shared among ranks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plain_engine import PlainEngine
from ranked_engine import RankedEngine
from tiny_mllama import NAME, answer, make_mllama
from tiny_vlms import picture
from transformers import PreTrainedModel

from antiphon.config.decoding_rules import BeamRules, DecodingRules
from antiphon.config.errors import PromptError
from antiphon.config.parallel import Parallel
from antiphon.config.sampling import SamplingParams
from antiphon.engine.sync_engine import Engine as LocalEngine
from antiphon.inputs.prepared import Prepared
from antiphon.inputs.processor import InputProcessor
from antiphon.scheduler.request import Media, Request

OUTPUT = 12
# Their widths and heights: of one, two, three and four tiles.
SIZES = [(14, 14), (28, 12), (10, 40), (27, 26), (5, 60)]
Checkpoint = tuple[Path, PreTrainedModel]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("mllama")
    return folder, make_mllama(folder)


class Engine(PlainEngine):
    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(folder, **{"max_num_seqs": 8, **options})
        self.encoded = 0

    def run_encoders(self) -> None:
        self.encoded += len(self.unencoded)
        super().run_encoders()


def ask(
    engine: PlainEngine, prompt: dict[str, Any], params: SamplingParams | None = None, **fields: Any
) -> tuple[Request, Prepared]:
    prepared = InputProcessor(engine.model).prepare(prompt, SamplingParams())
    assert prepared.prompt_token_ids is not None
    params = params or SamplingParams(logprobs=0)
    request = engine.request(None, prepared.prompt_token_ids, OUTPUT, params=params, **fields)
    request.inputs = tuple(
        Media(
            part.key, part.kind, part.num_tokens, part.payload, token=part.token, shown=part.shown
        )
        for part in prepared.inputs
    )
    engine.submit(request)
    return request, prepared


def prompts() -> list[tuple[str, list[int]]]:
    """Texts, and numbers of the pictures in them."""
    return [
        (f"{NAME} <s> w7 w8 w9", [1]),
        ("<s> w10 w11 w12", []),
        (f"<s> w5 w6 {NAME} w7 w8 w9 w10 w11", [0]),
        (f"<s> w5 {NAME} {NAME} w20 w21", [2, 0]),
        (f"<s> w5 {NAME} w30 w31 {NAME} w32", [3, 1]),
        (f"{NAME} <s> {NAME} {NAME} w9 w8 {NAME}", [0, 4, 1, 0]),
        ("w40 " * 30, []),
        (f"w3 {NAME} w4", [4]),
    ]


def given(text: str, numbers: list[int]) -> dict[str, Any]:
    images = [picture(number, *SIZES[number]) for number in numbers]
    return {"prompt": text, "multi_modal_data": {"image": images}}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_num_batched_tokens": 9, "kv_page_size": 4},
        {"kv_page_size": 4, "num_kv_pages": 60, "encode_ahead_tokens": 40},
    ],
    ids=["whole", "chunks", "preempted"],
)
def test_tokens_and_logprobs_equal_transformers(
    options: dict[str, Any], checkpoint: Checkpoint
) -> None:
    folder, model = checkpoint
    engine = Engine(folder, **options)
    submitted = [ask(engine, given(*prompt)) for prompt in prompts()]
    finished = engine.run()
    if not options:
        assert engine.encoded == len(SIZES), "an image in several prompts is encoded once"
        submitted += [ask(engine, given(*prompt)) for prompt in prompts()]
        finished = engine.run()
        assert engine.encoded == len(SIZES)
    for (request, prepared), (_, numbers) in zip(submitted, prompts() * 2, strict=False):
        images = [picture(number, *SIZES[number]) for number in numbers]
        tokens, logprobs = answer(model, folder, prepared, images, OUTPUT)
        end = finished[request.id.number]
        assert end.token_ids == tokens
        own = [token.logprobs[0] for token in end.logprobs]
        np.testing.assert_allclose(own, logprobs, atol=1e-3)
    scheduler = engine.replica.scheduler
    if "num_kv_pages" in options:
        assert scheduler.counters["preemptions"] > 0
    assert scheduler.encodes.tokens == 0
    scheduler.batch.check()
    scheduler.pages.check()


@pytest.mark.parametrize("parallel", [Parallel(2), Parallel(1, 2)], ids=str)
def test_ranks_share_the_decoder(parallel: Parallel, checkpoint: Checkpoint) -> None:
    folder, _ = checkpoint
    options = {"max_num_seqs": 8, "kv_page_size": 4, "num_kv_pages": 500}
    alone = Engine(folder, **options)
    with RankedEngine(folder, parallel, **options) as engine:
        for prompt in prompts():
            ask(engine, given(*prompt))
            ask(alone, given(*prompt))
        ends, expected = engine.run(), alone.run()
    assert {n: end.token_ids for n, end in ends.items()} == {
        n: end.token_ids for n, end in expected.items()
    }


def test_beams_forks_and_penalties(checkpoint: Checkpoint) -> None:
    """A search of one beam is greedy; forks begin where their parent is; the image's token, which
    has no logit, is no reason to penalize another."""
    folder, _ = checkpoint
    prompt = given(*prompts()[4])
    greedy = Engine(folder, kv_page_size=4)
    first, _ = ask(greedy, prompt)
    tokens = greedy.run()[first.id.number].token_ids
    engine = Engine(folder, kv_page_size=4)
    rules = DecodingRules(beams=BeamRules(3), no_repeat_ngram=9)
    searched, _ = ask(engine, prompt, rules=rules)
    parent, _ = ask(engine, prompt)
    for _ in range(6):
        engine.step()
    child = engine.request(None, parent.prompt_token_ids.tolist(), OUTPUT)
    child.inputs = parent.inputs
    engine.replica.scheduler.fork(parent, child)
    assert engine.replica.scheduler.counters["forks"] == 1
    penalty = SamplingParams(logprobs=0, repetition_penalty=0.01)
    repeating, _ = ask(engine, prompt, penalty)
    ends = engine.run()
    assert ends[parent.id.number].token_ids == ends[child.id.number].token_ids == tokens
    found, plain = ends[searched.id.number], ends[parent.id.number]
    assert found.restricted_logprob >= sum(plain.token_logprobs) - 1e-3
    assert set(ends[repeating.id.number].token_ids) <= set(parent.prompt_token_ids.tolist())
    engine.replica.scheduler.batch.check()


def test_chats_and_wrong_numbers_of_images(checkpoint: Checkpoint) -> None:
    folder, model = checkpoint
    params = SamplingParams(max_tokens=OUTPUT, ignore_eos=True)
    image = picture(1, *SIZES[1])
    words = {"type": "text", "text": "w7 w8"}
    chat = [{"role": "user", "content": [{"type": "image", "image": image}, words]}]
    with LocalEngine(str(folder), ray=False, device="cpu") as engine:
        (output,) = engine.chat(chat, params, use_tqdm=False)
        text = {"type": "text", "text": output.outputs[0].text}
        chat += [{"role": "assistant", "content": [text]}, {"role": "user", "content": "w9"}]
        (later,) = engine.chat(chat, params, use_tqdm=False)
        wrong = [{"prompt": "w7"}, {"prompt": f"{NAME} " * 9}]
        images = [[image], [image] * 9]
        broken = engine.generate(
            [
                {**prompt, "multi_modal_data": {"image": given}}
                for prompt, given in zip(wrong, images, strict=True)
            ],
            params,
            use_tqdm=False,
        )
        stats = engine.stats()
        inputs = engine._async.inputs
    assert stats["encodes"] == 1, "a chat's image is encoded once"
    for asked, got in ((chat[:1], output), (chat, later)):
        prepared = inputs.prepare({"messages": asked}, params)
        tokens, _ = answer(model, folder, prepared, [image], OUTPUT)
        assert got.outputs[0].token_ids == tokens
    for request, message in zip(broken, ["1 images for 0 places", "at most 8"], strict=True):
        assert isinstance(request.error, PromptError)
        assert message in str(request.error)
