"""The few elements that the pictures of these pages consist of, as SVG text."""

from html import escape

SANS = "ui-sans-serif, system-ui, 'Segoe UI', Helvetica, Arial, sans-serif"
MONO = "ui-monospace, SFMono-Regular, Consolas, monospace"
GRAY = "#7d8590"  # legible on white and on black


def document(width: int, height: int, label: str, *elements: str) -> str:
    """A whole file. The background stays transparent."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        f' width="{width}" height="{height}" role="img" aria-label="{escape(label)}">'
    )
    return "\n".join([head, *elements, "</svg>\n"])


def text(
    x: int,
    y: int,
    content: str,
    *,
    size: float = 12.5,
    weight: int = 400,
    color: str = GRAY,
    font: str = SANS,
    anchor: str = "start",
) -> str:
    return (
        f'<text x="{x}" y="{y}" font-family="{font}" font-size="{size}" font-weight="{weight}"'
        f' fill="{color}" text-anchor="{anchor}">{escape(content)}</text>'
    )


def rectangle(
    x: int, y: int, width: int, height: int, *, fill: str, border: str = "none", radius: int = 8
) -> str:
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="{radius}" fill="{fill}"'
        f' stroke="{border}" stroke-width="1.3"/>'
    )


def arrow(*points: tuple[int, int]) -> str:
    """A line through `points`, whose last piece is horizontal or vertical, with a head."""
    (before_x, before_y), (x, y) = points[-2:]
    dx, dy = (x > before_x) - (x < before_x), (y > before_y) - (y < before_y)
    corners = (
        (x, y),
        (x - 9 * dx - 5 * dy, y - 9 * dy - 5 * dx),
        (x - 9 * dx + 5 * dy, y - 9 * dy + 5 * dx),
    )
    line = " ".join(f"{x},{y}" for x, y in points)
    head = " ".join(f"{x},{y}" for x, y in corners)
    return (
        f'<polyline points="{line}" fill="none" stroke="{GRAY}" stroke-width="2"/>'
        f'<polygon points="{head}" fill="{GRAY}"/>'
    )
