"""Chats in OpenAI's form: what becomes of messages, templates and images."""

import json
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Template

from antiphon.config.errors import CheckpointError, PromptError
from antiphon.inputs.chat import ChatFormat, chat_prompts, load_template
from antiphon.inputs.taken import Taken

TEMPLATE = (
    "{% for message in messages %}[{{ message.role }}]"
    "{% if message.content is string %}{{ message.content }}"
    "{% else %}{% for part in message.content %}"
    "{{ '<image>' if part.type == 'image' else part.text }}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}{{ more }}"
)

SEES = Taken(("text", "image"), {"image": "<image>"})
WATCHES = Taken(("text", "image", "video"), {"image": "<image>", "video": "<video>"})
ROLES = ("system", "user", "assistant", "tool")


class Tokenizer:
    """Its token ids are characters."""

    chat_template: Any = TEMPLATE

    def apply_chat_template(
        self, messages: Any, tokenize: bool, chat_template: str, **options: Any
    ) -> str:
        assert not tokenize
        return Template(chat_template).render(messages=messages, **options)

    def __call__(self, text: str, add_special_tokens: bool) -> Any:
        assert not add_special_tokens, "the template has them"
        return type("Encoding", (), {"input_ids": list(text)})


def ask(messages: Any, reads_images: bool = True, **options: Any) -> tuple[str, list[Any]]:
    chat = ChatFormat(Tokenizer(), TEMPLATE, 4096, SEES if reads_images else Taken())
    (prompt,) = chat_prompts(messages, options)
    plain = chat.plain(prompt)
    assert isinstance(plain, dict)
    return "".join(plain["prompt_token_ids"]), plain.get("multi_modal_data", {}).get("image", [])


@pytest.mark.parametrize(
    ("template", "roles"),
    [
        (TEMPLATE, set()),
        (TEMPLATE + "{% for message in messages %}{{ message.name }}{% endfor %}", set(ROLES)),
        ("{{ messages[-1]['name'] if messages[-1].role == 'tool' }}", {"tool"}),
        ("{{ messages[-1].get('name') if messages[0].role == 'user' else 1 / 0 }}", set(ROLES)),
        ("{{ 1 / 0 }}", set(ROLES)),
    ],
)
def test_whether_names_are_shown(template: str, roles: set[str]) -> None:
    """Of messages behind the user's too, where a template wants that; a template that fails at
    all is to say so itself."""
    chat = ChatFormat(Tokenizer(), template, 4096, Taken())
    for _ in range(2):
        assert {role for role in ROLES if chat.shows_name(role)} == roles


def test_texts_and_images_in_their_order() -> None:
    image = object()
    messages = [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": "https://x/a.png"}},
                {"type": "text", "text": "What"},
                {"type": "image", "image": image},
                "?",
            ],
        },
    ]
    text, images = ask(messages)
    assert text == "[system]Be brief.[user]<image>What<image>?[assistant]"
    assert images == ["https://x/a.png", image]


def test_a_model_of_texts_gets_texts() -> None:
    """Its template may not know of parts."""
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert ask([{"role": "user", "content": parts}], False) == ("[user]a\nb[assistant]", [])
    with pytest.raises(PromptError, match=r"takes no images: it takes text$"):
        ask([{"role": "user", "content": [{"type": "image", "image": 1}]}], False)


def test_options_of_the_template() -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert ask(messages, add_generation_prompt=False)[0] == "[user]a[assistant]b"
    assert ask(messages, continue_final_message=True)[0] == "[user]a[assistant]b"
    assert ask(messages, chat_template="{{ messages|length }}")[0] == "2"
    assert ask(messages, chat_template_kwargs={"more": "!"})[0].endswith("!")


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "a chat is a list of messages"),
        ("Hello", "a chat is a list of messages"),
        ([{"content": "a"}], "must have a 'role'"),
        ([{"role": "user", "content": 5}], "must be a text or a list of parts, not 5"),
        ([{"role": "user", "content": [{"type": "film"}]}], "a part of a message must be"),
        ([{"role": "user", "content": [{"type": ["image"]}]}], "a part of a message must be"),
        (
            [{"role": "user", "content": [{"type": "video"}]}],
            "takes no videos: it takes text and images$",
        ),
        ([{"role": "user", "content": [{"type": "input_audio"}]}], "takes no audio: it takes text"),
        ([{"role": "user", "content": [{"type": "image"}]}], "has no image"),
    ],
)
def test_chats_of_another_form_are_refused(messages: Any, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        ask(messages)


def test_other_prompts_stay_as_they_are_and_templates_may_be_missing() -> None:
    chat = ChatFormat(Tokenizer(), None, 4096, Taken())
    assert chat.plain("text") == "text"
    assert chat.plain({"prompt": "text"}) == {"prompt": "text"}
    messages = [{"role": "user", "content": "a"}]
    with pytest.raises(PromptError, match="has no chat template: give chat_template"):
        chat.plain({"messages": messages})
    with pytest.raises(PromptError, match=r"refuses this chat: .*undefined"):
        chat.plain({"messages": messages, "chat_template": "{{ nothing.at.all }}"})
    with pytest.raises(PromptError, match="unknown key 'prompt' beside 'messages'"):
        chat.plain({"messages": messages, "prompt": "a"})


def test_images_in_a_template_of_text_alone() -> None:
    template = "{% for message in messages %}{{ message.role }}: {{ message.content }}{% endfor %}"
    chat = ChatFormat(Tokenizer(), template, 4096, Taken(SEES.kinds, {"image": "<IMG_CONTEXT>"}))
    parts = [{"type": "image", "image": "a.png"}, {"type": "text", "text": "What?"}]
    plain = chat.prompt([{"role": "user", "content": parts}])
    assert isinstance(plain, dict)
    assert "".join(plain["prompt_token_ids"]) == "user: <IMG_CONTEXT>\nWhat?"
    assert plain["multi_modal_data"] == {"image": ["a.png"]}


def test_videos_in_a_template_of_text_alone() -> None:
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    chat = ChatFormat(Tokenizer(), template, 4096, WATCHES)
    parts = [{"type": "image", "image": 1}, {"type": "video", "video": 2}]
    plain = chat.prompt([{"role": "user", "content": parts}])
    assert isinstance(plain, dict)
    assert "".join(plain["prompt_token_ids"]) == "<image>\n<video>"
    assert plain["multi_modal_data"] == {"image": [1], "video": [2]}


def test_a_template_that_leaves_videos_out() -> None:
    chat = ChatFormat(Tokenizer(), TEMPLATE, 4096, WATCHES)
    parts = [{"type": "video", "video": 2}, {"type": "text", "text": "What?"}]
    message = "the chat template takes no videos: it writes no '<video>'.* takes text and images;"
    with pytest.raises(PromptError, match=message):
        chat.prompt([{"role": "user", "content": parts}])


@pytest.mark.parametrize(
    ("taken", "kind", "message"),
    [
        (Taken(("audio",)), "video", "takes no videos: it takes audio$"),
        (Taken(("audio",)), "audio", r"take text alone: give generate\(\) .*'audio': ...}"),
        (Taken(("image",), is_one_image=True), "video", "it takes one image in each prompt$"),
        (Taken(("text", "image"), is_one_image=True), "audio", "takes text and one image in each"),
        (Taken(("image",), is_one_image=True), "image", r"give generate\(\) .*'image': ...}"),
    ],
)
def test_chats_of_models_that_take_none(taken: Taken, kind: str, message: str) -> None:
    chat = ChatFormat(Tokenizer(), TEMPLATE, 4096, taken)
    with pytest.raises(PromptError, match=message):
        chat.prompt([{"role": "user", "content": [{"type": kind, kind: 1}]}])


def test_several_chats_share_the_options() -> None:
    options = {"add_generation_prompt": False, "priority": 3}
    chat = [{"role": "user", "content": "a"}]
    assert (
        chat_prompts([chat, chat], options)
        == [{"messages": chat, "add_generation_prompt": False}] * 2
    )
    assert options == {"priority": 3}


def test_where_templates_are_found(tmp_path: Path) -> None:
    tokenizer = Tokenizer()
    assert load_template(tmp_path, tokenizer) == TEMPLATE
    tokenizer.chat_template = None
    assert load_template(tmp_path, tokenizer) is None
    file = tmp_path / "chat_template.json"
    file.write_text(json.dumps({"chat_template": "older"}))
    assert load_template(tmp_path, tokenizer) == "older"
    file.write_text("[]")
    with pytest.raises(CheckpointError, match="cannot read"):
        load_template(tmp_path, tokenizer)
