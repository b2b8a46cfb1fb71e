"""espeak-ng through its library, which tells when each word begins; the command does not.

`apt-get install espeak-ng` has the library too.
"""

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

SAMPLE_RATE = 22_050
SYNCHRONOUS = 2  # espeak_Initialize: samples go to a callback, in this thread
UTF8, CHARACTERS = 1, 1  # espeak_Synth: the text's encoding; positions are counted in characters
SPEED, PITCH = 1, 3  # espeak_SetParameter
NO_EVENT, WORD = 0, 1  # espeak_EVENT.type


class _Id(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    """`espeak_EVENT` of speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),  # of the first character, from 1
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    )


class _Voice(ctypes.Structure):
    """`espeak_VOICE` of speak_lib.h."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("languages", ctypes.c_char_p),
        ("identifier", ctypes.c_char_p),
        ("gender", ctypes.c_ubyte),
        ("age", ctypes.c_ubyte),
        ("variant", ctypes.c_ubyte),
        ("padding", ctypes.c_ubyte),
        ("score", ctypes.c_int),
        ("spare", ctypes.c_void_p),
    )


_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


class Synthesizer:
    """One per process: the library has one voice at a time."""

    def __init__(self) -> None:
        self._library: Any = ctypes.CDLL("libespeak-ng.so.1")
        rate = self._library.espeak_Initialize(SYNCHRONOUS, 0, None, 0)
        if rate != SAMPLE_RATE:
            raise OSError(f"espeak-ng has no data: it gave the rate {rate}")
        self._blocks: list[np.ndarray] = []
        self._marks: dict[int, int] = {}
        self._callback: Callable[..., int] = _CALLBACK(self._take)  # kept alive for the library
        self._library.espeak_SetSynthCallback(self._callback)

    def _take(self, samples: Any, count: int, events: Any) -> int:
        if count > 0:
            self._blocks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        index = 0
        while events[index].type != NO_EVENT:
            event = events[index]
            if event.type == WORD:
                self._marks.setdefault(event.text_position - 1, event.sample)
            index += 1
        return 0

    def say(
        self, text: str, voice: str, speed: int, pitch: int
    ) -> tuple[np.ndarray, dict[int, int]]:
        """Samples [n] int16 at SAMPLE_RATE, and the first sample of each word by where in `text`
        it begins. Words that the voice runs together share a mark at the first of them."""
        self._blocks, self._marks = [], {}
        self._choose(voice)
        self._library.espeak_SetParameter(SPEED, speed, 0)
        self._library.espeak_SetParameter(PITCH, pitch, 0)
        data = text.encode() + b"\0"
        self._library.espeak_Synth(data, len(data), 0, CHARACTERS, 0, UTF8, None, None)
        return np.concatenate(self._blocks), self._marks

    def _choose(self, voice: str) -> None:
        """By name, else by language, as the command does."""
        if self._library.espeak_SetVoiceByName(voice.encode()):
            wanted = _Voice(languages=voice.encode())
            if self._library.espeak_SetVoiceByProperties(ctypes.byref(wanted)):
                raise ValueError(f"espeak-ng has no voice {voice!r}")


@cache
def synthesizer() -> Synthesizer:
    return Synthesizer()
