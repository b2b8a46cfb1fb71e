"""Calls as data: what is sent, and how the answer is read. Shared by both clients."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from antiphon.client.errors import ServerFailed
from antiphon.client.results import Completion, Model, Transcript
from antiphon.client.sound import Sound, content_of

Result = TypeVar("Result")
# A text, or {'encoder_prompt': ..., 'decoder_prompt': ...}.
Prompt = str | Mapping[str, Any]
Messages = str | list[dict[str, Any]]
PLAIN_FORMATS = ("text", "srt", "vtt")  # response formats that are no JSON


@dataclass(frozen=True)
class Call(Generic[Result]):
    """One request. `form` and `file` make a multipart body, `json` another. `read`: from the
    answer's JSON to the result, or from its text, if it is `plain`."""

    path: str
    read: Callable[[Any], Result]
    method: str = "POST"
    json: Mapping[str, Any] | None = None
    form: Mapping[str, Any] | None = None
    file: tuple[str, bytes] | None = None
    plain: bool = False

    def arguments(self) -> dict[str, Any]:
        """For httpx."""
        if self.file is None:
            return {} if self.json is None else {"json": dict(self.json)}
        return {"data": dict(self.form or {}), "files": {"file": self.file}}

    def result(self, text: str) -> Result:
        """From the text of a successful answer. Raises ServerFailed if it is none of the API."""
        try:
            return self.read(text if self.plain else json.loads(text))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ServerFailed(
                f"the answer to {self.path} is none of OpenAI's API ({type(error).__name__}: "
                f"{error}): {text[:100]!r}"
            ) from None

    def identity(self, index: int) -> str:
        """Of this request as number `index` of a batch: of all that is sent, so of the task, the
        model, the options and the input's content."""
        name, content = self.file or ("", b"")
        fields = [index, self.path, self.json, self.form, name]
        digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
        digest.update(content)
        return digest.hexdigest()[:32]


def sound_call(
    endpoint: str, sound: Sound, options: Mapping[str, Any], stream: bool = False
) -> Call[Transcript]:
    fields = {name: value for name, value in options.items() if value is not None}
    if stream:
        fields["stream"] = "true"
    else:
        fields.setdefault("response_format", "verbose_json")
    form = {
        f"{name}[]" if isinstance(value, (list, tuple)) else name: _text(value)
        for name, value in fields.items()
    }
    plain = not stream and fields["response_format"] in PLAIN_FORMATS
    read: Callable[[Any], Transcript] = Transcript if plain else Transcript.of
    return Call(f"audio/{endpoint}", read, form=form, file=content_of(sound), plain=plain)


def _text(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):  # as chunking_strategy may be
        return json.dumps(value)
    return [str(item) for item in value] if isinstance(value, (list, tuple)) else str(value)


def text_call(prompt: Prompt, options: Mapping[str, Any]) -> Call[Completion]:
    return Call("completions", Completion.of, json={"prompt": prompt, **_given(options)})


def chat_call(messages: Messages, options: Mapping[str, Any]) -> Call[Completion]:
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    return Call("chat/completions", Completion.of, json={"messages": messages, **_given(options)})


def models_call() -> Call[list[Model]]:
    return Call("models", lambda reply: [Model.of(entry) for entry in reply["data"]], "GET")


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def delta_of(event: Mapping[str, Any]) -> str:
    """The new text in an event of any stream."""
    if event.get("type") == "transcript.text.delta":
        return str(event["delta"])
    for choice in event.get("choices") or ():
        return str(choice["text"] if "text" in choice else choice["delta"].get("content") or "")
    return ""
