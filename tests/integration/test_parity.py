"""Every family against transformers, in float32 and greedily.

The same checkpoint and inputs give the same tokens, and log-probabilities within a tolerance.
"""

from collections.abc import Iterable

import numpy as np
import pytest
import tiny_models
import torch
from oracle import (
    LOGPROB_TOLERANCE,
    TOLERANCE,
    clips,
    mixed_inputs,
    oracle,
    speech_oracle,
    text_rules,
)
from plain_engine import PlainEngine

from antiphon.config.decoding_rules import DecodingRules
from antiphon.layers.shard import Spans

TEXT_FAMILIES = [name for name in tiny_models.FAMILIES if name != "whisper"]
REQUESTS = 64


@pytest.mark.parametrize("name", TEXT_FAMILIES)
@pytest.mark.parametrize("staggered", [False, True])
def test_tokens_and_logprobs_equal_transformers(name: str, staggered: bool, checkpoints) -> None:
    """`staggered`: requests come while others run, in rounds of three steps."""
    folder, model = checkpoints(name)
    engine = PlainEngine(
        folder,
        max_num_seqs=16,
        max_model_len=100,
        kv_page_size=8,
        num_scheduler_steps=3 if staggered else 1,
    )
    start = model.generation_config.decoder_start_token_id
    inputs = mixed_inputs(REQUESTS, model.config.vocab_size, seed=7 + staggered)
    for ids, max_new in inputs:
        engine.submit(engine.request(ids, [start], max_new, text_rules(model)))
        if staggered:
            engine.step()
    finished = engine.run()
    distinct = set()
    for i, (ids, max_new) in enumerate(inputs):
        tokens, logprobs = oracle(
            model, torch.tensor(ids[None], dtype=torch.long), [start], max_new
        )
        assert finished[i].token_ids == tokens, f"request {i}"
        np.testing.assert_allclose(
            [token.logprobs[0] for token in finished[i].logprobs], logprobs, atol=LOGPROB_TOLERANCE
        )
        distinct |= set(tokens)
    assert len(distinct) > 15, f"the checkpoint repeats itself: only {distinct}"
    engine.replica.scheduler.pages.check()


@pytest.mark.parametrize("name", TEXT_FAMILIES)
def test_encoder_output_equals_transformers(name: str, checkpoints) -> None:
    folder, model = checkpoints(name)
    engine = PlainEngine(folder, max_model_len=100)
    inputs = [ids for ids, _ in mixed_inputs(12, model.config.vocab_size, seed=3)]
    encoded = engine.encoder.encode(inputs)
    for ids, hidden in zip(inputs, encoded.hidden.split(encoded.lengths), strict=True):
        expected = model.get_encoder()(torch.tensor(ids[None], dtype=torch.long)).last_hidden_state[
            0
        ]
        torch.testing.assert_close(hidden, expected, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("timestamps", [False, True])
@pytest.mark.parametrize("staggered", [False, True])
def test_whisper_equals_transformers(timestamps: bool, staggered: bool, checkpoints) -> None:
    folder, model = checkpoints("whisper")
    from transformers import WhisperFeatureExtractor

    from antiphon.config.decoding_rules import TimestampRules

    rules = TimestampRules(67, 66, 60, 20) if timestamps else None
    engine = PlainEngine(folder, timestamps=rules, max_num_seqs=16)
    extractor = WhisperFeatureExtractor.from_pretrained(folder)
    sounds = clips(REQUESTS, engine.model.audio.window)
    prompt = [61, 63, 65] if timestamps else [61, 63, 65, 66]
    lengths = np.random.default_rng(6).integers(1, 40, REQUESTS).tolist()
    decoding = DecodingRules(
        stop_ids=(60,), suppress=(3, 5, 7), begin_suppress=(60, 9), timestamps=rules
    )
    for clip, length in zip(sounds, lengths, strict=True):
        engine.submit(engine.request(clip, prompt, length, decoding))
        if staggered:
            engine.step()
    finished = engine.run()
    for i, (clip, length) in enumerate(zip(sounds, lengths, strict=True)):
        tokens, logprobs = speech_oracle(model, extractor, clip, prompt, length, timestamps)
        assert finished[i].token_ids == tokens, f"request {i}"
        np.testing.assert_allclose(
            [token.logprobs[0] for token in finished[i].logprobs], logprobs, atol=LOGPROB_TOLERANCE
        )


@pytest.mark.parametrize("name", [*TEXT_FAMILIES, "whisper"])
def test_logits_equal_transformers(name: str, checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, model = checkpoints(name)
    engine = PlainEngine(folder, max_model_len=64, max_num_seqs=4)
    decoder = engine.replica.runner.model
    seen: list[torch.Tensor] = []
    original = decoder.logits
    monkeypatch.setattr(decoder, "logits", lambda hidden: seen.append(original(hidden)) or seen[-1])
    rng = np.random.default_rng(2)
    tokens = rng.integers(3, 59, 9).tolist()  # below Whisper's special tokens
    if name == "whisper":
        payload = clips(1, engine.model.audio.window)[0]
        from transformers import WhisperFeatureExtractor

        inputs = WhisperFeatureExtractor.from_pretrained(folder)(
            payload, sampling_rate=16_000, return_tensors="pt"
        ).input_features
    else:
        payload = rng.integers(3, 70, 17).astype(np.int32)
        inputs = torch.from_numpy(payload[None].astype(np.int64))
    for length in range(1, len(tokens) + 1):  # the last logits of every prefix
        engine.submit(engine.request(payload, tokens[:length], 1))
        engine.run()
    wanted = model(inputs, decoder_input_ids=torch.tensor([tokens])).logits[0]
    output = torch.cat(seen)
    scale = wanted.abs().max().clamp(min=1.0)
    torch.testing.assert_close(output / scale, wanted / scale, atol=TOLERANCE, rtol=0)


def test_whisper_encoder_output_equals_transformers(checkpoints) -> None:
    folder, model = checkpoints("whisper")
    engine = PlainEngine(folder)
    from transformers import WhisperFeatureExtractor

    sounds = clips(5, engine.model.audio.window)
    features = WhisperFeatureExtractor.from_pretrained(folder)(
        sounds, sampling_rate=16_000, return_tensors="pt"
    ).input_features
    wanted = model.get_encoder()(features).last_hidden_state
    encoded = engine.encoder.encode(sounds)
    torch.testing.assert_close(
        encoded.hidden.view_as(wanted), wanted, atol=TOLERANCE, rtol=TOLERANCE
    )


def test_t5_with_different_depths_equals_the_plain_forward(tmp_path) -> None:
    """transformers 5.23 cannot generate with such checkpoints: its forward gives the tokens."""
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(4)
    model = T5ForConditionalGeneration(
        T5Config(**{**tiny_models.T5_SHAPE, "num_decoder_layers": 4}, decoder_start_token_id=0)
    ).eval()
    tiny_models.liven_text_model(model)
    model.save_pretrained(tmp_path)
    engine = PlainEngine(tmp_path, max_model_len=64)
    inputs = mixed_inputs(12, tiny_models.VOCAB, seed=5)
    for ids, length in inputs:
        engine.submit(engine.request(ids, [0], length))
    finished = engine.run()
    for i, (ids, length) in enumerate(inputs):
        tokens = [0]
        for _ in range(length):
            logits = model(
                torch.tensor(ids[None], dtype=torch.long), decoder_input_ids=torch.tensor([tokens])
            ).logits
            tokens.append(int(logits[0, -1].argmax()))
        assert finished[i].token_ids == tokens[1:]


WHISPER_SIZES = {  # name: (d_model, encoder layers, decoder layers, heads, mel bins, vocabulary)
    "tiny": (384, 4, 4, 6, 80, 51865),
    "tiny.en": (384, 4, 4, 6, 80, 51864),
    "base": (512, 6, 6, 8, 80, 51865),
    "small": (768, 12, 12, 12, 80, 51865),
    "medium": (1024, 24, 24, 16, 80, 51865),
    "large-v2": (1280, 32, 32, 20, 80, 51865),
    "large-v3": (1280, 32, 32, 20, 128, 51866),
    "large-v3-turbo": (1280, 32, 4, 20, 128, 51866),
    "distil-large-v3": (1280, 32, 2, 20, 128, 51866),
    "distil-small.en": (768, 12, 4, 12, 80, 51864),
}


class ShapesOnly:
    """A checkpoint of tensors without content; `read` insists on their shapes."""

    def __init__(self, shapes: dict[str, torch.Size]) -> None:
        self.shapes, self.claimed, self.read_names = shapes, set[str](), set[str]()

    def __contains__(self, name: object) -> bool:
        return name in self.shapes

    def read(self, name: str, spans: Spans) -> torch.Tensor:
        shape = torch.Size(span.total for span in spans)
        assert self.shapes[name] == shape, name
        self.read_names.add(name)
        return torch.empty(shape, device="meta")

    weight = read

    def claim(self, names: Iterable[str]) -> None:
        self.claimed.update(names)

    def first_of(self, names: tuple[str, ...]) -> str:
        self.claim(names)
        return next(name for name in names if name in self)


@pytest.mark.parametrize("size", WHISPER_SIZES)
def test_every_published_whisper_fits_its_tensors(size: str) -> None:
    """Names and shapes of our halves against transformers' model, without memory for either."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    from antiphon.decoder.models import build as build_decoder
    from antiphon.encoder.models import build as build_encoder
    from antiphon.families.halves import HeadTensors
    from antiphon.families.registry import families
    from antiphon.layers.weights import load_weights

    width, encoder_layers, decoder_layers, heads, mels, vocabulary = WHISPER_SIZES[size]
    config = WhisperConfig(
        vocab_size=vocabulary,
        num_mel_bins=mels,
        d_model=width,
        encoder_layers=encoder_layers,
        decoder_layers=decoder_layers,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
    )
    family = families()["WhisperForConditionalGeneration"]
    with torch.device("meta"):
        expected = {
            name: tensor.shape
            for name, tensor in WhisperForConditionalGeneration(config).state_dict().items()
        }
        raw = config.to_dict()
        encoder, decoder = family.encoder(raw), family.decoder(raw)
        halves = [
            (encoder, build_encoder(encoder)),
            (decoder, build_decoder(decoder, HeadTensors(tied=True, bias=False))),
        ]
    checkpoint = ShapesOnly(expected)
    for half, model in halves:
        load_weights(model, checkpoint, half.checkpoint_names)  # type: ignore[arg-type]
    used = checkpoint.read_names
    assert set(expected) - used <= {"proj_out.weight", "model.decoder.embed_tokens.weight"}, (
        "tensors that no half reads"
    )


def test_the_shipped_whisper_equals_transformers_on_real_sound(whisper_folder) -> None:
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

    from antiphon.inputs.audio.cuts import cut_at_quiet
    from antiphon.inputs.audio.forms import load_audio

    model = WhisperForConditionalGeneration.from_pretrained(
        whisper_folder, dtype=torch.float32
    ).eval()
    extractor = WhisperFeatureExtractor.from_pretrained(whisper_folder)
    engine = PlainEngine(whisper_folder)
    samples = load_audio(whisper_folder.parent / "recordings" / "long.opus", 16_000)
    pieces = [
        samples[start:end]
        for seconds in (3, 5, 8)
        for start, end in cut_at_quiet(samples, seconds * 16_000, 16_000)
    ]
    prompt, rules = [521, 522, 525, 529], DecodingRules(stop_ids=(520,), begin_suppress=(220, 520))
    for piece in pieces:
        engine.submit(engine.request(piece, prompt, 90, rules))
    finished = engine.run()
    for i, piece in enumerate(pieces):
        features = extractor(piece, sampling_rate=16_000, return_tensors="pt").input_features
        options = {
            "language": "en",
            "task": "transcribe",
            "return_timestamps": False,
            "force_unique_generate_call": True,
        }
        assert (
            finished[i].token_ids == model.generate(features, **options)[0, len(prompt) :].tolist()
        )
