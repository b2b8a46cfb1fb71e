"""Files whose few bytes would buy a lot of work: each takes no longer than its size explains."""

import io
import time

import numpy as np
from encoded_audio import RATE, encoded

from antiphon.inputs.audio.forms import read_sound
from antiphon.inputs.audio.joined import MOST_RECORDINGS, recordings_in

SIZE = 200_000
MOST_SECONDS = 2.0  # of the processor, for SIZE bytes; most take a tenth


def search_seconds(content: bytes) -> float:
    before = time.process_time()
    assert recordings_in(io.BytesIO(content)).spans
    return time.process_time() - before


def test_many_short_recordings_before_a_long_one() -> None:
    assert search_seconds(b"#!AMR\n" * 200 + bytes(1 << 20)) < 0.5
    before = time.process_time()
    read_sound(b"#!AMR\n" * 200 + bytes(1 << 14), RATE)
    assert time.process_time() - before < MOST_SECONDS


def test_more_recordings_than_anybody_joins_are_told() -> None:
    first, other = encoded("wav"), b"#!AMR\n" * 10_000
    joined = recordings_in(io.BytesIO(first + other))
    assert len(joined.spans) == MOST_RECORDINGS
    assert joined.spans[-1][1] + joined.unread == len(first + other)
    before = time.process_time()
    sound = read_sound(first + other, RATE)
    assert time.process_time() - before < 2 * MOST_SECONDS
    assert sound.skipped[-1].reason == "undecodable"
    np.testing.assert_array_equal(sound.samples, read_sound(first, RATE).samples)
