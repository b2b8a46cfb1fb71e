"""Hidden states in a decoder's prompt: an engine whose encoders are played, and transformers."""

from pathlib import Path
from typing import Any

import torch
from plain_engine import PlainEngine
from tiny_models import VOCAB
from transformers import PreTrainedModel

from antiphon.config.decoding_rules import DecodingRules
from antiphon.kv.handoff import HiddenStates
from antiphon.scheduler.request import Finished, Media, Request

STATES = {"a": 3, "b": 2}  # lengths, of what `run_with_states` reads


class StatesEngine(PlainEngine):
    """Its encoder's part is played by fixed states."""

    def __init__(self, folder: Path, states: dict[str, torch.Tensor], **options: Any) -> None:
        super().__init__(folder, **{"encode_ahead_tokens": 100, **options})
        self.states, self.encoded = states, 0

    def run_encoders(self) -> None:
        jobs, self.unencoded = self.unencoded, []
        for media in jobs:
            self.encoded += 1
            states = self.states[media.key]
            self.replica.receive_hidden(HiddenStates((media.key,), (len(states),), states))


def make_states(model: PreTrainedModel, lengths: dict[str, int]) -> dict[str, torch.Tensor]:
    """By key, as many as `lengths` says."""
    size, generator = model.config.hidden_size, torch.Generator().manual_seed(1)
    return {key: torch.randn(length, size, generator=generator) for key, length in lengths.items()}


def run_with_states(engine: StatesEngine) -> list[Finished]:
    """Prompts in which hidden states stand, of one at the very end, and one of tokens alone."""
    for inputs in (
        (Media("a", "image", 3, position=1),),
        (Media("b", "image", 2, position=4), Media("a", "image", 3, position=1)),
        (),
        (Media("b", "image", 2, position=2),),
    ):
        rules = DecodingRules(min_tokens=2, stop_ids=(1,))
        request = engine.request(None, [4, 5, 6, 7, 8, 9], 4, rules)
        request.inputs = inputs
        engine.submit(request)
    return [end for _, end in sorted(engine.run().items())]


def answer(
    model: PreTrainedModel, request: Request, states: dict[str, torch.Tensor], count: int
) -> tuple[list[int], list[float]]:
    """As `continuation`, of the prompt of `request` with its inputs' states in their places."""
    ids = torch.from_numpy(request.prompt_token_ids)[None]
    embeds = model.get_input_embeddings()(ids).detach().clone()
    for media in request.inputs:
        assert media.position is not None
        embeds[0, media.position : media.position + media.num_tokens] = states[media.key]
    mask = torch.ones(embeds.shape[:2])
    return continuation(model, count, inputs_embeds=embeds, attention_mask=mask)


def continuation(
    model: PreTrainedModel, count: int, **inputs: Any
) -> tuple[list[int], list[float]]:
    """`count` greedy tokens by transformers, and their log-probabilities."""
    output = model.generate(
        **inputs,
        max_new_tokens=count,
        min_new_tokens=count,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        eos_token_id=VOCAB + 1,
    )
    tokens = output.sequences[0, -count:].tolist()
    rows = zip(output.logits, tokens, strict=True)
    return tokens, [logits[0].log_softmax(-1)[token].item() for logits, token in rows]
