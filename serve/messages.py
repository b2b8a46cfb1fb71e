"""From the messages of a chat to what a model reads: one text, or one recording."""

import base64
import binascii
import io
from typing import Any

from antiphon.inputs.images.addresses import is_address
from antiphon.inputs.prompts import Prompt
from antiphon.serve.errors import ApiError, refused
from antiphon.serve.schemas.text import ChatBody, Message, Part
from antiphon.serve.service import ServedModel
from antiphon.serve.uploads import Upload

NOT_TAKEN = {
    "file": "no model here reads files",
    "refusal": "no model here is told of refusals",
}


def chat_prompt(model: ServedModel, body: ChatBody) -> Prompt:
    """The prompt for a model that reads: by the checkpoint's chat template, or without one the text
    of the only message, with its image where the model attends to one. Raises ApiError."""
    messages = [_message(model, message, number) for number, message in enumerate(body.messages)]
    if model.engine.inputs.chat.has_template:
        return {"messages": messages}
    _check_single(model, body.messages)
    content = messages[0]["content"]
    parts: list[Any] = [{"type": "text", "text": content}] if isinstance(content, str) else content
    text = "".join(part["text"] for part in parts if part["type"] == "text")
    if not model.attends_to_image:
        return text
    images = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    return _about_an_image(model, images, text)


def _about_an_image(model: ServedModel, images: list[str], text: str) -> Prompt:
    """`text`: what the encoder reads behind the image, or else what the decoder begins with, such
    as a task token. Raises ApiError."""
    if len(images) != 1:
        raise ApiError(
            400,
            f"{model.name} reads one image: give one part of type image_url, not {len(images)}",
            param="messages",
        )
    attended, image = model.engine.inputs.attended_image, {"image": images[0]}
    assert attended is not None
    if attended.questions is not None:
        return {"prompt": text, "multi_modal_data": image}
    return {"encoder_prompt": {"multi_modal_data": image}, "decoder_prompt": text or None}


def _check_single(model: ServedModel, messages: list[Message]) -> None:
    """Raises ApiError unless there is one message, of the user."""
    if len(messages) != 1 or messages[0].role != "user":
        raise ApiError(
            400,
            f"{model.name} knows no conversations (it has no chat template): give one message, of "
            "the user",
            param="messages",
        )


def _message(model: ServedModel, message: Message, number: int) -> dict[str, Any]:
    """A message as the engine takes it."""
    place = f"messages.{number}.content"
    if message.content is None:
        raise ApiError(400, f"'{place}' is missing", param=place)
    whose: dict[str, Any] = {"role": message.role}
    _check_name(model, message, number)
    if message.name is not None:
        whose["name"] = message.name  # for the template
    if isinstance(message.content, str):
        return {**whose, "content": message.content}
    parts = [_part(model, part, f"{place}.{index}") for index, part in enumerate(message.content)]
    return {**whose, "content": parts}


def _check_name(model: ServedModel, message: Message, number: int) -> None:
    """Raises ApiError for a name that nobody would read."""
    if message.name is None:
        return
    chat, place = model.engine.inputs.chat, f"messages.{number}.name"
    if not chat.has_template:
        raise refused(place, f"{model.name} knows no participants")
    if not chat.shows_name(message.role):
        raise refused(place, f"the chat template of {model.name} leaves names out")


def _part(model: ServedModel, part: Part, place: str) -> dict[str, Any]:
    _check_part(part, place)
    if part.image_url is not None:
        _check_kind(model, "image", place)
        if not is_address(part.image_url.url):  # never a path: it would be this machine's
            raise refused(place, "send the image itself, as 'data:image/png;base64,...'")
        return {"type": "image_url", "image_url": {"url": part.image_url.url}}
    if part.video_url is not None:
        _check_kind(model, "video", place)
        if not is_address(part.video_url.url):
            raise refused(place, "send the video itself, as 'data:video/mp4;base64,...'")
        return {"type": "video_url", "video_url": {"url": part.video_url.url}}
    if part.input_audio is not None:
        _check_kind(model, "audio", place)
    return {"type": "text", "text": part.text}


def _check_kind(model: ServedModel, kind: str, place: str) -> None:
    """Raises ApiError for a part of a kind that the model does not take."""
    taken = model.engine.inputs.taken
    if kind not in taken.kinds:
        raise refused(place, taken.refusal(kind, model.name))


def _check_part(part: Part, place: str) -> None:
    """Raises ApiError for a part that no model takes, or that lacks what its type says."""
    if part.type in NOT_TAKEN:
        raise refused(place, NOT_TAKEN[part.type])
    if getattr(part, part.type) is None:
        raise ApiError(400, f"'{place}' has no '{part.type}'", param=place)
    beside = part.model_fields_set - {"type", part.type}
    if others := sorted(name for name in beside if getattr(part, name) is not None):
        raise ApiError(
            400, f"'{place}' is of type '{part.type}' and has '{others[0]}', too", param=place
        )


def recording(model: ServedModel, body: ChatBody) -> Upload:
    """The only recording, for a model that listens. Raises ApiError."""
    audio = model.engine.inputs.audio
    assert audio is not None
    _check_single(model, body.messages)
    (message,) = body.messages
    _check_name(model, message, 0)
    parts = message.content if isinstance(message.content, list) else []
    for index, part in enumerate(parts):
        _check_part(part, f"messages.0.content.{index}")
        if part.type == "text" and (part.text or "").strip():
            raise refused(
                f"messages.0.content.{index}", "this model transcribes and follows no instructions"
            )
    sounds = [part.input_audio for part in parts if part.input_audio is not None]
    if len(sounds) != 1:
        raise ApiError(
            400,
            f"{model.name} listens: give one part of type input_audio, not {len(sounds)}",
            param="messages",
        )
    content = _decoded(sounds[0].data)
    return Upload(io.BytesIO(content), len(content), audio.sampling_rate, param="messages")


def _decoded(text: str) -> bytes:
    try:
        content = base64.b64decode(text.rpartition("base64,")[2], validate=True)
    except (binascii.Error, ValueError):
        content = b""
    if not content:
        raise ApiError(400, "input_audio.data must be base64 of a file", param="messages")
    return content
