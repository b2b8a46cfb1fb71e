"""Which inputs a model takes, and what is said of others."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from antiphon.config.errors import PromptError
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.images.attended import AttendedImage
from antiphon.inputs.images.prompts import ImagePrompts
from antiphon.inputs.prompts import Part

NAMES = {"text": "text", "image": "images", "video": "videos", "audio": "audio"}


@dataclass(frozen=True)
class Taken:
    """`kinds`: of `NAMES`. `placeholders`: what stands in a prompt for one of each kind that chats
    may have beside text. `is_one_image`: each prompt has one image, no less and no more."""

    kinds: tuple[str, ...] = ("text",)
    placeholders: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    is_one_image: bool = False

    @classmethod
    def of(
        cls, model: ModelConfig, images: ImagePrompts | None, attended: AttendedImage | None
    ) -> "Taken":
        if model.audio is not None:
            return cls(("audio",))
        if attended is not None:
            text = () if attended.questions is None else ("text",)
            return cls((*text, "image"), is_one_image=True)
        if images is None:
            return cls()
        placeholders = {"image": images.placeholder}
        if images.videos is not None:
            placeholders["video"] = images.video_placeholder
        return cls(("text", *placeholders), placeholders)

    def check(self, part: Part) -> None:
        """Raises PromptError for media that the model does not take."""
        has = {"image": part.images, "video": part.videos, "audio": part.audio is not None}
        for kind in NAMES:
            if has.get(kind) and kind not in self.kinds:
                raise PromptError(self.refusal(kind))

    def check_chat(self, kind: str) -> None:
        """Raises PromptError for what no message may have."""
        if kind not in self.kinds:
            raise PromptError(self.refusal(kind))
        if kind not in self.placeholders:
            raise PromptError(
                f"chats of this model take text alone: give generate() 'multi_modal_data': "
                f"{{'{kind}': ...}}"
            )

    def check_written(self, kind: str, text: str, template: str) -> None:
        """Raises PromptError for media of a chat that `template`, which wrote `text`, left out."""
        token = self.placeholders[kind]
        if token in text:
            return
        others = [one for one in self.placeholders if one != kind and one in template]
        raise PromptError(
            f"the chat template takes no {NAMES[kind]}: it writes no {token!r} for them. It takes "
            f"{self._listed('text', *others)}; another one may be given as chat_template"
        )

    def refusal(self, kind: str, who: str = "this model") -> str:
        return f"{who} takes no {NAMES[kind]}: it takes {self._listed(*self.kinds)}"

    def _listed(self, *kinds: str) -> str:
        names = {**NAMES, "image": "one image in each prompt"} if self.is_one_image else NAMES
        *first, last = (names[kind] for kind in kinds)
        return f"{', '.join(first)} and {last}" if first else last
