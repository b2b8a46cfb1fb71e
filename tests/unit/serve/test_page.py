"""The page at /, as a file: it asks nobody else, and its colors can be read."""

import re

import pytest

from antiphon.serve.routes.page import _page

PAGE, HEADERS = _page()


def colors(block: str) -> dict[str, str]:
    return dict(re.findall(r"--([\w-]+): (#\w+)", block))


LIGHT = colors(PAGE.split(":root {")[1].split("}")[0])
DARK = colors(PAGE.split(":root {")[2].split("}")[0])


def luminance(color: str) -> float:
    """As WCAG 2 defines it."""
    digits = color[1:] if len(color) == 7 else "".join(2 * digit for digit in color[1:])
    values = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("text", "ground"),
    [
        ("ink", "ground"), ("quiet", "ground"), ("wrong", "ground"), ("accent", "ground"),
        ("on-accent", "accent"), ("ink", "mark"), ("ground", "wrong"),
    ],
)  # fmt: skip
def test_contrast(theme: dict[str, str], text: str, ground: str) -> None:
    darker, lighter = sorted((luminance(theme[text]), luminance(theme[ground])))
    assert (lighter + 0.05) / (darker + 0.05) >= 4.5


def test_nothing_comes_from_elsewhere() -> None:
    assert re.findall(r"https?://|src=|@import|url\(", PAGE) == []
    policy = HEADERS["content-security-policy"]
    assert policy.startswith("default-src 'none'; connect-src 'self'; ")
    assert "unsafe" not in policy
