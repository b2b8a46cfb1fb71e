"""What all request bodies have in common: no field is ignored."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from antiphon.serve.errors import UNKNOWN, UNSUPPORTED

Refusals = Mapping[str, tuple[tuple[Any, ...], str]]


class Body(BaseModel):
    """A request body. `refusals`: fields of OpenAI's API that no model here can honor: values that
    ask for nothing and so are accepted, and why the others are refused."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True, hide_input_in_errors=True)
    refusals: ClassVar[Refusals] = {}

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, body: Any) -> Any:
        """Raises ValidationError for fields that cannot be honored, and for unknown ones."""
        if not isinstance(body, dict):
            return body
        kept, known = {}, cls.known()
        for name, value in body.items():
            neutral, reason = cls.refusals.get(name, ((), ""))
            if not reason:
                kept[name] = value
            elif value is not None and value not in neutral:
                raise cls._wrong(name, UNSUPPORTED, reason)
        for name in kept:
            if name not in known:
                raise cls._wrong(name, UNKNOWN, "unknown")
        return kept

    @classmethod
    def _wrong(cls, name: str, kind: Literal["unsupported", "unknown"], reason: str) -> Exception:
        """Of a field, to which pydantic adds the place of this body in the whole. Of the name, half
        of a surrogate pair would become another text there, so it is told apart, in a tuple, which
        pydantic does not read."""
        problem = PydanticCustomError(kind, "{reason}", {"reason": reason, "name": (name,)})
        return ValidationError.from_exception_data(
            cls.__name__, [{"type": problem, "loc": (name,), "input": None}]
        )

    @classmethod
    def known(cls) -> set[str]:
        fields = cls.model_fields.items()
        return {name for name, _ in fields} | {field.alias for _, field in fields if field.alias}
