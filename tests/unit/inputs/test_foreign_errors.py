"""What is told of errors of other libraries."""

import pytest

from antiphon.config.errors import ImageError
from antiphon.inputs.foreign_errors import foreign_errors_as


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("absolute aspect ratio must be below 200"), "absolute aspect ratio must be be"),
        (ValueError("x"), "ValueError: x"),
        (ValueError(), "ValueError"),
        (KeyError("a b"), "KeyError: 'a b'"),
        (UnicodeDecodeError("utf-8", b"x", 0, 1, "why"), "UnicodeDecodeError: "),
    ],
)
def test_types_are_named_where_they_say_something(error: Exception, said: str) -> None:
    with pytest.raises(ImageError) as caught, foreign_errors_as(ImageError, "a picture"):
        raise error
    assert str(caught.value).startswith(f"a picture: {said}")
