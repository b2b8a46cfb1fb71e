"""How long, how fast and how loud a recording may be."""

from antiphon.config.errors import AudioError

MAX_SECONDS = 6 * 3600  # bounds memory before it is spent: 6 h at 16 kHz are 1.4 GB
RATES = (1_000, 768_000)  # Hz, lowest and highest; others are a mistake in the caller's units
# Full scale is 1. Loud masters and lossy codecs overshoot it a little (1.5 is common); samples
# above this value are in other units, 16-bit values as floats for example.
LARGEST = 8.0


def too_long(name: str) -> AudioError:
    return AudioError(f"{name}: longer than {MAX_SECONDS / 3600:.0f} hours; split it")
