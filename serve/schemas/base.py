"""What all request bodies have in common: no field is ignored."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator

from antiphon.serve.errors import ApiError, refused

Refusals = Mapping[str, tuple[tuple[Any, ...], str]]


class Body(BaseModel):
    """A request body. `refusals`: fields of OpenAI's API that no model here can honor: values that
    ask for nothing and so are accepted, and why the others are refused."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True, hide_input_in_errors=True)
    refusals: ClassVar[Refusals] = {}

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, body: Any) -> Any:
        """Raises ApiError for fields that cannot be honored."""
        if not isinstance(body, dict):
            return body
        kept = {}
        for name, value in body.items():
            neutral, reason = cls.refusals.get(name, ((), ""))
            if not reason:
                kept[name] = value
            elif value is not None and value not in neutral:
                raise refused(name, reason)
        unknown = [name for name in kept if name not in cls.known()]
        if unknown:
            raise ApiError(
                400, f"there is no field '{unknown[0][:100]}'", param=unknown[0], code="unknown"
            )
        return kept

    @classmethod
    def known(cls) -> set[str]:
        fields = cls.model_fields.items()
        return {name for name, _ in fields} | {field.alias for _, field in fields if field.alias}
