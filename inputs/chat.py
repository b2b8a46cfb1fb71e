"""Chats in OpenAI's form, brought into a prompt by the checkpoint's chat template."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from antiphon.config.errors import CheckpointError, PromptError, describe
from antiphon.config.foreign import shown
from antiphon.inputs.bounded_text import bounded_ids
from antiphon.inputs.prompts import Prompt, unicode_text
from antiphon.inputs.taken import Taken

Message = Mapping[str, Any]
TEXT_TYPES = ("text", "input_text")
MEDIA_TYPES = {
    "image": ("image", "image_url", "image_pil", "input_image"),
    "video": ("video", "video_url", "input_video"),
    "audio": ("audio", "audio_url", "input_audio"),
}
KINDS = {type_: kind for kind, types in MEDIA_TYPES.items() for type_ in types}
Media = dict[str, list[Any]]  # images and videos of a chat, as `multi_modal_data` has them
NAME = "a-name-to-look-for"
OLDER_FILE = "chat_template.json"  # where processors kept their template


def load_template(folder: Path, tokenizer: Any) -> str | None:
    """The chat template of a checkpoint, if it has one. Raises CheckpointError for a broken
    file."""
    if (template := tokenizer.chat_template) is not None:
        return template["default"] if isinstance(template, Mapping) else str(template)
    file = folder / OLDER_FILE
    if not file.exists():
        return None
    try:
        return str(json.loads(file.read_text("utf-8-sig"))["chat_template"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"cannot read {file}: {describe(error)}") from error


def is_chat(messages: Any) -> bool:
    """True for one chat, False for a list of several.

    Raises PromptError for anything else, an empty one included.
    """
    if isinstance(messages, Sequence) and not isinstance(messages, str) and messages:
        if all(isinstance(message, Mapping) for message in messages):
            return True
        are_mappings = [isinstance(chat, Mapping) for chat in messages]
        if not any(are_mappings) and any(isinstance(chat, (list, tuple)) for chat in messages):
            return False  # each is checked by itself, so that a wrong one fails alone
    raise PromptError(
        "a chat is a list of messages such as {'role': 'user', 'content': 'Hello'}, "
        f"not {shown(messages)}"
    )


# As in transformers' `apply_chat_template`.
TEMPLATE_OPTIONS = (
    "add_generation_prompt", "continue_final_message", "chat_template", "chat_template_kwargs",
)  # fmt: skip


def chat_prompts(messages: Any, options: dict[str, Any]) -> list[Prompt]:
    """The prompts of one chat, or of a list of them. `options`: of a call, which loses those that
    are for the template. Raises as `is_chat`."""
    chats = [messages] if is_chat(messages) else messages
    for_template = {name: options.pop(name) for name in TEMPLATE_OPTIONS if name in options}
    return [{"messages": chat, **for_template} for chat in chats]


class ChatFormat:
    """Makes prompts of chats. `most_tokens`: of a prompt. `taken`: what messages may have."""

    def __init__(
        self,
        tokenizer: Any,
        template: str | None,
        most_tokens: int,
        taken: Taken,
    ) -> None:
        self._tokenizer, self._template = tokenizer, template
        self._most_tokens, self._taken = most_tokens, taken
        self._shows_name: dict[str, bool] = {}  # by role

    @property
    def has_template(self) -> bool:
        return self._template is not None

    def shows_name(self, role: str) -> bool:
        """Whether the checkpoint's template tells the model the "name" of a message of `role`; True
        for a role that it refuses."""
        if role not in self._shows_name:
            self._shows_name[role] = self._finds_name(role)
        return self._shows_name[role]

    def _finds_name(self, role: str) -> bool:
        template = self._template or ""
        first, named = (
            {"role": "user", "content": "a"},
            {"role": role, "content": "b", "name": NAME},
        )
        for chat in ([named], [first, named]):
            plain = [self._message(one, template, {"image": [], "video": []}) for one in chat]
            with suppress(Exception):  # whatever a template raises
                text: str = self._tokenizer.apply_chat_template(
                    plain, tokenize=False, chat_template=template
                )
                return NAME in text
        return True

    def plain(self, prompt: Prompt) -> Prompt:
        """`prompt` with text alone in place of "messages", if it has those.

        Raises PromptError, also for another key beside them than TEMPLATE_OPTIONS.
        """
        if not isinstance(prompt, Mapping) or "messages" not in prompt:
            return prompt
        options = {name: value for name, value in prompt.items() if name != "messages"}
        if unknown := [name for name in options if name not in TEMPLATE_OPTIONS]:
            raise PromptError(
                f"unknown key {unknown[0]!r} beside 'messages'; "
                f"there may be {', '.join(TEMPLATE_OPTIONS)}"
            )
        if not is_chat(prompt["messages"]):
            raise PromptError("'messages' must be one chat, not a list of chats")
        return self.prompt(prompt["messages"], **options)

    def prompt(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> Prompt:
        """The prompt of one chat. Options: as transformers' `apply_chat_template`.

        Raises PromptError for a message or a part of another form, and for a template that is
        missing or refuses the chat.
        """
        template = self._template if chat_template is None else chat_template
        if template is None:
            raise PromptError("this checkpoint has no chat template: give chat_template")
        media: Media = {"image": [], "video": []}
        plain = [self._message(message, template, media) for message in messages]
        try:
            text = self._tokenizer.apply_chat_template(
                plain,
                tokenize=False,
                chat_template=template,
                add_generation_prompt=add_generation_prompt and not continue_final_message,
                continue_final_message=continue_final_message,
                **(chat_template_kwargs or {}),
            )
        except Exception as error:  # whatever a template raises
            raise PromptError(f"the chat template refuses this chat: {describe(error)}") from error
        unicode_text(text)
        data = {kind: items for kind, items in media.items() if items}
        for kind in data:
            self._taken.check_written(kind, text, template)
        ids = bounded_ids(  # the template has special tokens
            self._tokenizer, text, self._most_tokens, add_special_tokens=False
        )
        return {"prompt_token_ids": ids, **({"multi_modal_data": data} if data else {})}

    def _message(self, message: Message, template: str, media: Media) -> dict[str, Any]:
        """`message` as templates take it; adds its images and videos to `media`."""
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise PromptError(f"a message must have a 'role' and a 'content', not {shown(message)}")
        content = message.get("content")
        if content is None or isinstance(content, str):
            text = content or ""
            takes_text = self._takes_text(template) or "is string" in template
            parts: Any = text if takes_text else [{"type": "text", "text": text}]
            return {**message, "content": parts}
        if not isinstance(content, Sequence):
            raise PromptError(f"'content' must be a text or a list of parts, not {shown(content)}")
        made = [self._part(part, media) for part in content]
        if self._takes_text(template):
            tokens = self._taken.placeholders
            lines = [part["text"] if "text" in part else tokens[part["type"]] for part in made]
            return {**message, "content": "\n".join(lines)}
        return {**message, "content": made}

    def _takes_text(self, template: str) -> bool:
        """Whether `template` has no parts of messages, but text alone."""
        return not any(kind in template for kind in self._taken.placeholders)

    def _part(self, part: Any, media: Media) -> dict[str, Any]:
        if isinstance(part, str):
            return {"type": "text", "text": part}
        type_ = part.get("type") if isinstance(part, Mapping) else None
        if type_ in TEXT_TYPES and isinstance(part.get("text"), str):
            return {"type": "text", "text": part["text"]}
        kind = KINDS.get(type_) if isinstance(type_, str) else None
        if kind is not None:
            self._taken.check_chat(kind)
            media[kind].append(_found(part, *MEDIA_TYPES[kind], "url"))
            return {"type": kind}
        raise PromptError(
            "a part of a message must be {'type': 'text', 'text': ...} or "
            f"{{'type': 'image_url', 'image_url': {{'url': ...}}}}, not {shown(part)}"
        )


def _found(part: Mapping[str, Any], *names: str) -> Any:
    """The image or video of a part, under one of `names`: a URL, or whatever else is read."""
    for name in names:
        if (value := part.get(name)) is not None:
            return value.get("url") if isinstance(value, Mapping) and "url" in value else value
    raise PromptError(f"a part of a message has no {names[0]}: {shown(part)}")
