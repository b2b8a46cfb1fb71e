"""Files with junk inside or bytes lost: the rest is kept, and the loss is reported."""

import numpy as np
import pytest
from encoded_audio import RATE, SECONDS, encoded, lost, seconds_of

from antiphon.config.errors import AudioError
from antiphon.inputs.audio.forms import read_sound

# ---------------------------------------------------------------------- AMR

SID, NO_DATA = b"\x44" + bytes(5), b"\x7c"  # of AMR-NB


def amr_frames() -> tuple[bytes, list[bytes]]:
    content = encoded("amr")
    size = 13  # of a frame of 4.75 kbit/s
    return content[:6], [content[start : start + size] for start in range(6, len(content), size)]


@pytest.mark.parametrize(
    "junk", [np.random.default_rng(5).bytes(500), bytes(500), b"\xff" * 500, b"RIFF" * 125], ids=str
)
@pytest.mark.parametrize("replaced", [0, 500])
def test_amr_with_junk_inside_is_hardly_longer_than_its_bytes(junk: bytes, replaced: int) -> None:
    content = encoded("amr")
    middle = len(content) // 2
    sound = read_sound(content[:middle] + junk + content[middle + replaced :], RATE)
    longest = SECONDS + (len(junk) - replaced) / len(content) * SECONDS
    assert SECONDS - 0.5 < seconds_of(sound) < longest + 0.3
    assert lost(sound, "undecodable") > 0.1


def test_pauses_of_amr_are_silence_and_no_loss() -> None:
    """Phones send a descriptor of the silence now and then, and nothing between."""
    header, frames = amr_frames()
    pause = [SID, *[NO_DATA] * 7] * 6  # 0.96 s
    sound = read_sound(header + b"".join([*frames[:100], *pause, *frames[100:]]), RATE)
    assert seconds_of(sound) == pytest.approx(SECONDS + 0.96, abs=0.05)
    assert sound.skipped == []
    assert not sound.samples[int(2.05 * RATE) : int(2.9 * RATE)].any()
    assert np.abs(sound.samples[int(3.1 * RATE) :]).max() > 0.2


def test_amr_frames_marked_as_damaged_are_left_out() -> None:
    header, frames = amr_frames()
    marked = [bytes([frame[0] | 4]) + frame[1:] for frame in frames]
    marked[50:60] = [bytes([frame[0] & ~4]) + frame[1:] for frame in marked[50:60]]
    sound = read_sound(header + b"".join(marked), RATE)
    (span,) = sound.skipped
    assert (span.start, span.end) == (pytest.approx(1.0, abs=0.03), pytest.approx(1.2, abs=0.03))
    # Encoders that never set the mark are taken at their word.
    assert (
        read_sound(
            header + b"".join(bytes([frame[0] & ~4]) + frame[1:] for frame in frames), RATE
        ).skipped
        == []
    )


# ---------------------------------------------------------------------- floats

FORMATS = {"wav-f32": 4, "wav-f64": 8}


def noisy(name: str) -> tuple[bytes, bytes]:
    """Header and samples of a float WAV with all its bits in use."""
    content = encoded(name)
    start = content.index(b"data") + 8
    dtype = f"<f{FORMATS[name]}"
    samples = np.frombuffer(content, dtype, offset=start)
    return content[:start], (samples * np.pi / 3).astype(dtype).tobytes()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("bytes_lost", [1, 2, 3])
def test_floats_that_slipped_keep_what_came_before(name: str, bytes_lost: int) -> None:
    header, samples = noisy(name)
    middle = len(samples) // 2
    sound = read_sound(header + samples[:middle] + samples[middle + bytes_lost :], RATE)
    whole = read_sound(header + samples, RATE)
    assert seconds_of(sound) == pytest.approx(SECONDS, abs=0.01)
    np.testing.assert_array_equal(
        sound.samples[: 2 * RATE - 1024], whole.samples[: 2 * RATE - 1024]
    )
    assert np.isfinite(sound.samples).all()
    assert lost(sound, "undecodable") == pytest.approx(2.0, abs=0.1)
    (span,) = sound.skipped
    assert not sound.samples[int(span.start * RATE) + 1 : int(span.end * RATE) - 1].any()


@pytest.mark.parametrize("name", FORMATS)
def test_floats_that_slipped_at_once_are_refused(name: str) -> None:
    header, samples = noisy(name)
    with pytest.raises(AudioError, match="samples are NaN, infinite or beyond 8"):
        read_sound(header + samples[3:], RATE)


def test_floats_in_another_unit_with_pauses_are_refused() -> None:
    header, samples = noisy("wav-f32")
    loud = np.frombuffer(samples, "<f4") * 32768
    loud[: 3 * RATE] = 0  # most of it is no larger than 8
    with pytest.raises(AudioError, match="beyond 8 where full scale is 1"):
        read_sound(header + loud.astype("<f4").tobytes(), RATE)
