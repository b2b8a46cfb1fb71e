"""A model that is played: each token is a function of the prompt's first token, which names the
request, and of its position; one character stands for each token."""

from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.sampling import SamplingParams
from antiphon.inputs.detokenizer import SlowDecoder, TextStream

END = 1


def text_of(token_ids: list[int]) -> str:
    return "".join(chr(0x4E00 + token) for token in token_ids)  # one character each


def token_at(name: int, position: int) -> int:
    """Of the request that `name`, its first prompt token, stands for."""
    return END if (position + 2 * name) % 17 == 0 else 5 + (7 * name + position) % 40


def is_drafted(name: int, position: int) -> bool:
    """Whether a draft model is right there."""
    return (name + position) % 3 > 0


def undisturbed(name: int, prompt: int, max_tokens: int) -> list[int]:
    tokens = [token_at(name, position) for position in range(prompt, prompt + max_tokens)]
    return tokens[: tokens.index(END) + 1] if END in tokens else tokens


class PlainInputs:
    """What `OpenRequests` asks of an input processor."""

    def complete(self, params: SamplingParams) -> SamplingParams:
        return params

    def wants_timestamps(self, prompt_token_ids: list[int]) -> bool:
        return False

    def rules(
        self, prompt_len: int, params: SamplingParams, timestamps: bool, changes: object = None
    ) -> DecodingRules:
        return DecodingRules(stop_ids=(END,))

    def max_tokens(self, prompt_len: int, params: SamplingParams) -> int:
        assert params.max_tokens is not None
        return params.max_tokens

    def text_stream(self, params: SamplingParams) -> TextStream:
        return TextStream(SlowDecoder(text_of), tuple(params.stop), 0, False)
