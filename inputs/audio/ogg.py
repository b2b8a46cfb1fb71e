"""Chained Ogg files: several streams one after another, as recorded radio has them (RFC 3533).

FFmpeg reads on into the next stream only where codec, rate and channels stay the same.
"""

import io

PAGE = b"OggS"
FIRST_PAGE = 0x02  # flag in a page's header, byte 5: a stream begins here


def next_stream(file: str | io.BytesIO, position: int) -> io.BytesIO | None:
    """The rest of an Ogg file, from the first stream that begins behind byte `position`.

    None for other files, and where no further stream begins.
    """
    content = _content_from(file, position)
    if content is None:
        return None
    page = content.find(PAGE, 1)
    while page >= 0:
        if content[page + 5 : page + 6] and content[page + 5] & FIRST_PAGE:
            return io.BytesIO(content[page:])
        page = content.find(PAGE, page + 1)
    return None


def _content_from(file: str | io.BytesIO, position: int) -> bytes | None:
    if isinstance(file, io.BytesIO):
        view = file.getbuffer()
        return bytes(view[position:]) if bytes(view[:4]) == PAGE else None
    with open(file, "rb") as opened:
        if opened.read(4) != PAGE:
            return None
        opened.seek(position)
        return opened.read()
