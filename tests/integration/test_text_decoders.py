"""Decoders without encoders (Llama, Qwen2, Qwen3) against transformers, greedy in float32: tokens
and log-probabilities, however requests are batched, cut into chunks and preempted."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plain_engine import PlainEngine
from tiny_decoders import DECODERS, make_decoder
from tiny_models import VOCAB
from transformers import PreTrainedModel

from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.errors import CheckpointError, PromptError, UnsupportedModelError
from antiphon.config.options import resolve
from antiphon.config.sampling import SamplingParams
from antiphon.decoder.runner import DecoderRunner
from antiphon.engine.sync_engine import Engine
from antiphon.families.checkpoint import ModelConfig
from antiphon.layers.checkpoint import Checkpoint

RULES = DecodingRules(stop_ids=(1,))
Prompts = list[tuple[list[int], int]]
Checkpoints = dict[str, tuple[Path, PreTrainedModel]]  # by name in DECODERS


@pytest.fixture(scope="module")
def checkpoints(
    tmp_path_factory: pytest.TempPathFactory,
) -> Checkpoints:
    folders = {name: tmp_path_factory.mktemp(name) for name in DECODERS}
    return {name: (folder, make_decoder(name, folder)) for name, folder in folders.items()}


def prompts(count: int = 10, longest: int = 90) -> Prompts:
    """(token ids, output length) of mixed lengths, at the ends of the range too."""
    rng = np.random.default_rng(7)
    lengths = [1, 2, longest, *rng.integers(1, longest, count - 3)]
    return [
        (rng.integers(3, VOCAB, length).tolist(), int(rng.integers(1, 40))) for length in lengths
    ]


def answer(model: PreTrainedModel, prompt: list[int], length: int) -> tuple[list[int], list[float]]:
    """By transformers' generate, one request at a time."""
    output = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt)),
        max_new_tokens=length,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    tokens = output.sequences[0, len(prompt) :].tolist()
    rows = zip(output.logits, tokens, strict=True)
    return tokens, [logits[0].log_softmax(-1)[token].item() for logits, token in rows]


OPTIONS: list[dict[str, Any]] = [
    {"decoder_attention_backend": "cpu_paged"},
    {"decoder_attention_backend": "torch_sdpa", "kv_page_size": 4},
    {"max_num_batched_tokens": 24},  # long prompts run in chunks beside the decodes
    {"max_num_seqs": 3, "num_kv_pages": 9},  # 144 tokens: sequences are preempted
]


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize(
    "options", OPTIONS, ids=lambda options: "-".join(map(str, options.values()))
)
def test_tokens_and_logprobs_equal_transformers(
    name: str, options: dict[str, Any], checkpoints: Checkpoints
) -> None:
    folder, model = checkpoints[name]
    engine = PlainEngine(folder, warm=True, **{"max_num_seqs": 6, **options})
    requests = prompts()
    for prompt, length in requests:
        engine.submit(engine.request(None, prompt, length, RULES))
    finished = engine.run()
    for number, (prompt, length) in enumerate(requests):
        tokens, logprobs = answer(model, prompt, length)
        assert finished[number].token_ids == tokens
        own = [token.logprobs[0] for token in finished[number].logprobs]
        np.testing.assert_allclose(own, logprobs, atol=1e-3)
    scheduler = engine.replica.scheduler
    assert scheduler.counters["encodes"] == 0
    assert scheduler.pages.num_available == scheduler.pages.num_pages
    if "num_kv_pages" in options:
        assert scheduler.counters["preemptions"] > 0
    scheduler.batch.check()


@pytest.mark.parametrize("options", [{"quantization": "int8"}, {"kv_cache_dtype": "fp8"}])
def test_eight_bits_stay_close(options: dict[str, Any], checkpoints: Checkpoints) -> None:
    """First tokens' log-probabilities: later ones depend on which token came first."""
    folder, model = checkpoints["llama"]
    engine = PlainEngine(folder, **options)
    requests = prompts()
    for prompt, _ in requests:
        engine.submit(engine.request(None, prompt, 1))
    finished = engine.run()
    errors = []
    for number, (prompt, _) in enumerate(requests):
        logits = model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
        own = finished[number].logprobs[0]
        errors.append(abs(own.logprobs[0] - logits[own.ids[0]].item()))
    assert np.median(errors) < 0.3


LONGROPE = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"prompt": None}, "the prompt is empty"),
    ({"encoder_prompt": "w7"}, "has no encoder: give 'prompt'"),
    ({"prompt": "w7", "multi_modal_data": {"audio": "x.wav"}}, "takes no audio: it takes text"),
    ({"prompt_token_ids": [5] * 300}, "300 tokens leaves no room within 256"),
]


def test_a_decoder_alone_serves_texts_and_token_ids(
    checkpoints: Checkpoints,
) -> None:
    folder, model = checkpoints["llama"]
    params = SamplingParams(max_tokens=12)
    with Engine(str(folder), ray=False, device="cpu") as engine:
        outputs = engine.generate(["w7 w8 w9", {"prompt_token_ids": [0, 7, 8, 9]}, "w50"], params)
        deltas = "".join(delta.text for delta in engine.stream("w7 w8 w9", params))
        refused = engine.generate([prompt for prompt, _ in REFUSED], params)
        with pytest.raises(PromptError, match="does not transcribe audio: use generate"):
            engine.transcribe("x.wav")
    for output, (_, reason) in zip(refused, REFUSED, strict=True):
        assert isinstance(output.error, PromptError)
        assert reason in str(output.error)
    tokens = answer(model, [0, 7, 8, 9], 12)[0]
    for output in outputs[:2]:
        assert output.prompt_token_ids == [0, 7, 8, 9]
        assert output.outputs[0].token_ids == tokens
    assert deltas == outputs[0].outputs[0].text
    assert outputs[0].outputs[0].text.split() == [f"w{id_}" for id_ in tokens if id_ > 2]
    assert outputs[2].outputs[0].token_ids == answer(model, [0, 50], 12)[0]


def test_chats_of_texts(checkpoints: Checkpoints) -> None:
    """The second turn shares what is computed of the first."""
    folder, model = checkpoints["llama"]
    template = "{{ bos_token }}{% for message in messages %} {{ message.content }}{% endfor %}"
    options = {"chat_template": template, "use_tqdm": False}
    first = [{"role": "user", "content": " ".join(f"w{id_}" for id_ in range(5, 40))}]
    params = SamplingParams(max_tokens=8)
    with Engine(str(folder), ray=False, device="cpu") as engine:
        (output,) = engine.chat(first, params, **options)
        assert output.prompt_token_ids == [0, *range(5, 40)]
        assert output.outputs[0].token_ids == answer(model, output.prompt_token_ids, 8)[0]
        answered = {"role": "assistant", "content": output.outputs[0].text}
        second = [*first, answered, {"role": "user", "content": "w50"}]
        both = engine.chat([second, "no chat", first], params, **options)
        deltas = engine.stream({"messages": first, "chat_template": template}, params)
        assert "".join(delta.text for delta in deltas) == output.outputs[0].text
        assert engine.stats()["prefix_cache_hits"] == 3 * 32
    assert isinstance(both[1].error, PromptError)
    for turn in (both[0], both[2]):
        assert turn.outputs[0].token_ids == answer(model, turn.prompt_token_ids, 8)[0]


@pytest.mark.slow
def test_a_decoder_alone_through_ray(checkpoints: Checkpoints, ray_cluster: None) -> None:
    folder, model = checkpoints["qwen2"]
    with Engine(str(folder), device="cpu", decoder_replicas=2) as engine:
        outputs = engine.generate(["w7 w8", "w30 w31 w32"] * 4, SamplingParams(max_tokens=8))
    for output in outputs:
        assert output.outputs[0].token_ids == answer(model, output.prompt_token_ids, 8)[0]


def test_a_bare_model_and_an_untied_head_that_is_missing(
    tmp_path: Path, checkpoints: Checkpoints
) -> None:
    folder, model = checkpoints["llama"]
    model.model.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    config = resolve(str(tmp_path), {"device": "cpu"})
    assert "layers.0.self_attn.q_proj.weight" in Checkpoint(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"holds no lm_head\.weight, and config\.json has tie_word"
    ):
        DecoderRunner(ModelConfig.load(config.model), config)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"use_sliding_window": True}, UnsupportedModelError, "latest tokens alone"),
        ({"num_key_value_heads": 4}, CheckpointError, r"6 heads .* can't share 4 heads"),
        (
            {"rope_parameters": LONGROPE},
            UnsupportedModelError,
            "'longrope'",
        ),
    ],
)
def test_what_cannot_be_served_is_refused(
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
    tmp_path: Path,
    checkpoints: Checkpoints,
) -> None:
    settings = json.loads((checkpoints["llama"][0] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**settings, **changes}))
    with pytest.raises(error, match=message):
        ModelConfig.load(resolve(str(tmp_path), {"device": "cpu"}).model)


def test_an_encoder_length_is_refused(checkpoints: Checkpoints) -> None:
    folder = str(checkpoints["llama"][0])
    with pytest.raises(CheckpointError, match=r"max_encoder_len=8: .* has no encoder"):
        ModelConfig.load(resolve(folder, {"device": "cpu", "max_encoder_len": 8}).model)
