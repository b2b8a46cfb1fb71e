"""What is asked about an image, for an encoder that reads both (Florence-2): a task token such as
<CAPTION> stands for a sentence, which the checkpoint's processor knows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from antiphon.config.errors import CheckpointError, PromptError, describe
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.bounded_text import bounded_ids
from antiphon.inputs.prompt_ids import check_ids
from antiphon.inputs.prompts import Part


@dataclass(frozen=True)
class Questions:
    """`tasks`: the sentence of each task token that stands alone. `tasks_with_input`: of those
    behind which more is said, with "{input}" in its place. `image_id`: the token that stands for a
    row of the image, which no text has. `most_tokens`: of the encoder, image and text."""

    tokenizer: Any
    tasks: Mapping[str, str]
    tasks_with_input: Mapping[str, str]
    image_id: int | None
    vocab_size: int
    most_tokens: int

    @classmethod
    def of(cls, model: ModelConfig, tokenizer: Any, image_processor: Any) -> "Questions":
        """Raises CheckpointError where transformers makes no processor of both."""
        from transformers.models.florence2.processing_florence2 import Florence2Processor

        try:
            processor = Florence2Processor(image_processor, tokenizer)
        except Exception as error:  # whatever missing settings make it raise
            raise CheckpointError(
                f"the processor of {model.path} cannot be made: {describe(error)}: its tokenizer "
                "must have an image_token, and its image processor an image_seq_length"
            ) from error
        assert model.encoder is not None
        return cls(
            tokenizer,
            processor.task_prompts_without_inputs,
            processor.task_prompts_with_input,
            model.raw.get("image_token_id"),
            model.encoder.vocab_size,
            model.max_encoder_len,
        )

    def ids(self, part: Part) -> np.ndarray:
        """Token ids [n] int64 of a prompt's text; ids as they are given. Raises PromptError."""
        if part.token_ids is not None:
            ids = list(part.token_ids)
            check_ids(ids, "the encoder prompt", self.vocab_size)
        else:
            sentence = self.sentence(part.text or "")
            text = f"{self.tokenizer.bos_token}{sentence}{self.tokenizer.eos_token}"
            ids = bounded_ids(self.tokenizer, text, self.most_tokens, add_special_tokens=False)
        if self.image_id in ids:
            raise PromptError(
                f"the prompt has token {self.image_id}, which stands for the image: leave it out; "
                "the image's rows are put before the text"
            )
        return np.array(ids, np.int64)

    def sentence(self, text: str) -> str:
        """`text`, or what its task token stands for. Raises PromptError for a text beside a token
        that stands alone."""
        for task, sentence in self.tasks.items():
            if task in text:
                if text.strip() != task:
                    raise PromptError(f"{task} stands alone: {text!r:.80} says more beside it")
                return sentence
        for task, sentence in self.tasks_with_input.items():
            if task in text:
                return sentence.format(input=text.replace(task, "").strip())
        return text
