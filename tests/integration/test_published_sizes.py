"""Every published Whisper fits our halves: their names and shapes against transformers' model."""

from collections.abc import Iterable

import pytest
import torch

from antiphon.layers.shard import Spans

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
