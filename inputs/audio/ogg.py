"""Chained Ogg files: several streams one after another, as recorded radio has them (RFC 3533).

FFmpeg reads on into the next link only where it has the same codec, rate and channels.
"""

import io

PAGE = b"OggS"
FIRST_PAGE = 0x02  # of the header's flags: a stream begins here


def next_link(file: str | io.BytesIO, position: int) -> io.BytesIO | None:
    """The rest of an Ogg file from the first stream that begins behind `position`; None for other
    files, and where no other begins."""
    content = _behind(file, position)
    if content is None:
        return None
    at = content.find(PAGE, 1)
    while at >= 0:
        if content[at + 5 : at + 6] and content[at + 5] & FIRST_PAGE:
            return io.BytesIO(content[at:])
        at = content.find(PAGE, at + 1)
    return None


def _behind(file: str | io.BytesIO, position: int) -> bytes | None:
    if isinstance(file, io.BytesIO):
        view = file.getbuffer()
        return bytes(view[position:]) if bytes(view[:4]) == PAGE else None
    with open(file, "rb") as opened:
        if opened.read(4) != PAGE:
            return None
        opened.seek(position)
        return opened.read()
