"""`Family`: everything that is known of a family of checkpoints before one of them is read."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from antiphon.config.errors import ConfigurationError
from antiphon.families.halves import Half
from antiphon.families.tensor_names import Side

Config = Mapping[str, Any]  # config.json, with the defaults of transformers filled in
BFLOAT16_TRAINED = frozenset({"float16"})


@dataclass(frozen=True, kw_only=True)
class Family:
    """The checkpoints of one `model_type`. A file of this folder that defines `FAMILY` adds one.

    `too_narrow`: formats that its activations leave. Published T5 and Pegasus models were trained
    in bfloat16; their feed-forward layers pass float16's 65504 (transformers keeps such a layer
    of T5 in float32, and clamps infinite values). The other families were trained in float16, or
    are commonly served in it.
    """

    name: str  # model_type in config.json
    architectures: tuple[str, ...]  # as config.json names them; the first one by default
    # What the encoder takes; None: there is none. Images may stand in the decoder's prompt.
    # image_text: both at once, an image before its text.
    input: Literal["text", "audio", "image", "image_text"] | None
    has_decoder: bool = True
    encoder_names: str = r"(model\.)?encoder\..*"  # pattern of names of the encoder's tensors
    describe: Callable[[Config, Side], Half]
    ignored: Mapping[str, str] = field(default_factory=dict)  # see `tensor_names`
    too_narrow: frozenset[str] = frozenset()
    # How the tokens of languages look, in translation models: regular expressions with a group
    # `code`; the first one that fits any token of a checkpoint counts.
    language_tokens: tuple[str, ...] = ()
    # True: a language token before the source text names the target language. False: it names the
    # source language, and the target begins with a token of its own.
    marks_target_in_source: bool = False
    # config.json of another format, in transformers' for its model_type `translated_name`. Raises
    # KeyError, TypeError or ValueError as `encoder` does, and UnsupportedModelError.
    translate: Callable[[Config], Config] = dict
    translated_name: str = ""

    def encoder(self, config: Config) -> Half | None:
        """None for a family of decoders alone.

        Raises KeyError, TypeError or ValueError where config.json lacks or garbles a size.
        """
        return None if self.input is None else self.describe(config, "encoder")

    def decoder(self, config: Config) -> Half | None:
        """None for a family of encoders alone. Raises as `encoder`."""
        return self.describe(config, "decoder") if self.has_decoder else None

    def is_of_encoder(self, name: str) -> bool:
        """Whether the tensor of this name belongs to the encoder."""
        return re.fullmatch(self.encoder_names, name) is not None

    def check_dtype(self, dtype: str) -> None:
        """Raises ConfigurationError for a format that can't hold this family's activations."""
        if dtype in self.too_narrow:
            raise ConfigurationError(
                f"dtype='{dtype}' can't hold the activations of {self.name} models, which pass "
                "its largest number and give wrong text: use dtype='bfloat16' or 'float32', or "
                "leave it to 'auto'"
            )
