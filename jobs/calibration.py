"""Inputs that a model is calibrated with: a manifest's lines, or a folder's files, each run
through the model once."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from antiphon.config.errors import ConfigurationError, InputError, ManifestError, describe
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.audio.forms import load_audio
from antiphon.inputs.prompt_ids import attends
from antiphon.jobs.entries import Defaults, decode, entry_of_line
from antiphon.jobs.line_set import LineSet
from antiphon.jobs.manifest import Line, Manifest
from antiphon.jobs.recordings import fetch, located, part

MAX_NEW_TOKENS = 64  # that the model writes to an input, to calibrate its decoder with
RATE = 16000
# What a line must have, by what a family reads.
NEEDED = {
    "audio": ("audio",),
    "image": ("image",),
    "image_text": ("image", "text"),
    "text": ("text",),
    None: ("text",),
}
PLACEHOLDERS = ("image_token_id", "video_token_id")  # of pictures that must stand behind them
WHOLE_FILES = ("audio", "image")


def reads(model: ModelConfig) -> str | None:
    """What one input of `model` is made of, as NEEDED names it: a picture in a prompt has a text
    beside it."""
    is_in_prompt = (
        model.family.input == "image" and model.decoder_half is not None and not attends(model)
    )
    return "image_text" if is_in_prompt else model.family.input


def read_lines(data: str, reads: str | None, limit: int) -> list[dict[str, Any]]:
    """The first `limit` inputs that `data` names: JSON lines as `antiphon batch` reads them, with
    `image` for models that read pictures, or a folder of recordings or pictures. `reads`: see the
    function.

    Raises ConfigurationError where there is none, ManifestError for a line of the wrong form.
    """
    needed, path = NEEDED[reads], Path(data).expanduser()
    if path.is_dir():
        if needed not in [(name,) for name in WHOLE_FILES]:
            raise ConfigurationError(
                f"{data} is a folder, and this model reads {' and '.join(needed)}: give JSON lines"
            )
        files = sorted(file for file in path.iterdir() if file.is_file())
        whole = {"span": None} if needed == ("audio",) else {}
        lines = [{needed[0]: file, **whole} for file in files[:limit]]
    else:
        lines = _of_manifest(data, needed, limit)
    if not lines:
        raise ConfigurationError(f"{data} holds nothing to calibrate with")
    return lines


def _of_manifest(data: str, needed: tuple[str, ...], limit: int) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    with Manifest(data) as manifest:
        for line in manifest.lines(LineSet()):
            if len(lines) == limit:
                break
            try:
                lines.append(_content(line, needed, manifest.folder))
            except InputError as error:
                raise ManifestError(f"line {line.number} of {data}: {error}") from None
    return lines


def _content(line: Line, needed: tuple[str, ...], folder: str) -> dict[str, Any]:
    """What the model reads of a line. Raises InputError."""
    if "image" not in needed:
        entry = entry_of_line(line, Defaults(speech="audio" in needed))
        if "audio" not in needed:
            return {"text": entry.prompt}
        return {"audio": located(entry.audio, folder), "span": entry.span}
    content = decode(line)
    if content.get("prompt") is not None:
        content["text"] = content["prompt"]
    if absent := [name for name in needed if not isinstance(content.get(name), str)]:
        raise ManifestError(f"no {' and no '.join(map(repr, absent))}, which this model reads")
    return {name: content[name] for name in needed} | {"image": located(content["image"], folder)}


def _samples(audio: Path | str, span: tuple[float, float | None] | None) -> np.ndarray:
    """Of a file or an address, whole or in part."""
    content = audio if isinstance(audio, Path) else fetch(audio)
    return load_audio(content, RATE) if span is None else part(content, RATE, *span)


class Samples:
    """`lines` as the keywords of the model's forward, with what the model writes to each: its
    decoder sees the text that it will see when it serves.

    `model`, `processor`: transformers'. Raises InputError for a file that can't be read.
    """

    def __init__(self, lines: list[dict[str, Any]], model: Any, processor: Any) -> None:
        self.lines, self.model, self.processor = lines, model, processor

    def __len__(self) -> int:
        return len(self.lines)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for line in self.lines:
            try:
                inputs = self._inputs(line)
            except InputError:
                raise
            except Exception as error:  # processors raise any type
                raise InputError(f"cannot read {line}: {describe(error)}") from error
            yield self._with_answer(inputs)

    def _inputs(self, line: dict[str, Any]) -> dict[str, Any]:
        if "audio" in line:
            sound = _samples(line["audio"], line["span"])
            inputs = self.processor(sound, sampling_rate=RATE, return_tensors="pt")
        elif "image" not in line:
            inputs = self.processor(line["text"], return_tensors="pt")
            inputs.pop("token_type_ids", None)
        else:
            inputs = self._of_picture(line)
        dtype = self.model.dtype
        return {
            name: value.to(dtype) if value.is_floating_point() else value
            for name, value in inputs.items()
        }

    def _of_picture(self, line: dict[str, Any]) -> Any:
        from PIL import Image

        image = line["image"]
        with Image.open(image if isinstance(image, Path) else BytesIO(fetch(image))) as file:
            picture = file.convert("RGB")
        if "text" not in line:
            return self.processor(picture, return_tensors="pt")
        content = [{"type": "image", "image": picture}, {"type": "text", "text": line["text"]}]
        return self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=True,
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        )

    def _with_answer(self, inputs: dict[str, Any]) -> dict[str, Any]:
        import torch

        never = [getattr(self.model.config, name, None) for name in PLACEHOLDERS]
        suppressed = [id_ for id_ in never if id_ is not None]
        limits: dict[str, Any] = {"suppress_tokens": suppressed} if suppressed else {}
        with torch.no_grad():
            tokens = self.model.generate(
                **inputs, **limits, max_new_tokens=MAX_NEW_TOKENS, do_sample=False
            )
        if self.model.config.is_encoder_decoder:
            return {**inputs, "decoder_input_ids": tokens}
        behind = tokens.shape[1] - inputs["input_ids"].shape[1]
        kinds: dict[str, Any] = {  # of tokens; what is written is text
            name: torch.nn.functional.pad(inputs[name], (0, behind))
            for name in ("token_type_ids", "mm_token_type_ids")
            if name in inputs
        }
        if "cross_attention_mask" in inputs:  # [1, tokens, images, tiles]: as of the prompt's last
            seen = inputs["cross_attention_mask"]
            last = seen[:, -1:].expand(-1, behind, -1, -1)
            kinds["cross_attention_mask"] = torch.cat((seen, last), 1)
        mask = torch.ones_like(tokens)
        return {**inputs, **kinds, "input_ids": tokens, "attention_mask": mask}
