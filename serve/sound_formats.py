"""Whether a recording is of the format that its client says."""

# What a file is by its first bytes, and the names that clients have for that.
NAMES = {
    "wav": ("wav", "wave"),
    "flac": ("flac",),
    "ogg": ("ogg", "oga", "opus", "vorbis", "speex", "flac"),
    "mp3": ("mp3", "mpeg", "mpga"),
}
BEGINNINGS = {b"fLaC": "flac", b"OggS": "ogg", b"ID3": "mp3"}


def format_of(content: bytes) -> str | None:
    """One of `NAMES`; None for a format that has no sure sign."""
    if content[:4] == b"RIFF" and content[8:12] == b"WAVE":
        return "wav"
    for beginning, name in BEGINNINGS.items():
        if content.startswith(beginning):
            return name
    # The first frame of MPEG's layer III: 11 bits are set, and two say which layer it is.
    is_frame = len(content) > 1 and content[0] == 0xFF and content[1] & 0xE6 == 0xE2
    return "mp3" if is_frame else None


def contradiction(said: str, content: bytes) -> str | None:
    """Why `content` is not of the format `said`; None where nothing speaks against it."""
    actual = format_of(content)
    if actual is None or said.lower() in NAMES[actual]:
        return None
    return f"the data is {actual}, as its first bytes say"
