"""Token ids of prompts, checked against a checkpoint's sizes."""

from antiphon.config.errors import CheckpointError, PromptError
from antiphon.families.checkpoint import ModelConfig


def attends(model: ModelConfig) -> bool:
    """Whether the decoder attends to an input, its text being what it writes and no prompt."""
    return model.decoder.cross_attention and model.decoder.most_attended == 1


def start_id(model: ModelConfig) -> int:
    start = model.defaults.start_id
    if start is None:
        raise CheckpointError(
            f"{model.path}: neither decoder_start_token_id nor bos_token_id is set, in "
            "generation_config.json or config.json: set the first one to the id of the token that "
            "decoder prompts begin with"
        )
    return start


def check_ids(ids: list[int], name: str, vocab_size: int) -> None:
    if not ids:
        raise PromptError(f"{name} is empty")
    outside = [id_ for id_ in ids if not 0 <= id_ < vocab_size]
    if outside:
        raise PromptError(
            f"{name} has token id {outside[0]}; the vocabulary has 0 to {vocab_size - 1}"
        )


def with_room(ids: list[int], model: ModelConfig) -> list[int]:
    """`ids`, a decoder prompt that is within the vocabulary and leaves room for a token."""
    limit = model.max_decoder_len
    check_ids(ids, "the decoder prompt", model.decoder.num_embedded)
    if len(ids) >= limit:
        raise PromptError(
            f"a decoder prompt of {len(ids)} tokens leaves no room within {limit} positions"
        )
    return ids
