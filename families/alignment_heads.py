"""Which heads of a Whisper's cross-attention follow the sound, and so tell when a word was said."""

from antiphon.config.errors import CheckpointError
from antiphon.families.checkpoint import ModelConfig

AlignmentHeads = tuple[tuple[int, int], ...]  # layer and head, each once, in order


def alignment_heads(model: ModelConfig) -> AlignmentHeads:
    """The generation config's `alignment_heads`; where it has none, all heads of the upper half of
    the layers, as in openai/whisper. Empty for other families.

    Raises CheckpointError for heads that the decoder does not have.
    """
    half = model.decoder_half
    if half is None or model.family.name != "whisper":
        return ()
    stated = model.generation.get("alignment_heads")
    if not stated:
        layers, heads = range(half.num_layers // 2, half.num_layers), range(half.num_heads)
        return tuple((layer, head) for layer in layers for head in heads)
    try:
        pairs = sorted({(int(layer), int(head)) for layer, head in stated})
    except (TypeError, ValueError):
        raise CheckpointError(
            f"alignment_heads must be pairs of a layer and a head, not {stated!r:.80}"
        ) from None
    for layer, head in pairs:
        if not (0 <= layer < half.num_layers and 0 <= head < half.num_heads):
            raise CheckpointError(
                f"alignment_heads: no head {head} in layer {layer} of a decoder of "
                f"{half.num_layers} layers with {half.num_heads} heads each"
            )
    return tuple(pairs)
