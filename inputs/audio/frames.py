"""Samples of FFmpeg's frames, around what ended the process in PyAV 17 and 18.

A layout that says where each channel stands, one after the other (CAF), is copied by PyAV with its
pointer, and freed once for every copy. And of planar frames with eight channels or more PyAV lists
planes that are none, which `to_ndarray` reads.
"""

from typing import Any

import numpy as np

TYPES = {"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}
# Layouts of so many channels, as FFmpeg takes them where a file tells none.
USUAL = ("mono", "stereo", "2.1", "4.0", "5.0", "5.1", "6.1", "7.1")


def forget_layout(codec: Any) -> None:
    """Gives as many channels their usual layout, before anything is decoded. Decoders that know
    another one, as most do, say so again."""
    if channels := codec.channels:  # which frees a pointer: once, before the layout goes
        codec.layout = USUAL[channels - 1] if channels <= len(USUAL) else f"{channels}C"


def planes_of(frame: Any, channels: int) -> list[np.ndarray]:
    """Each channel's samples, or [samples * channels] where they take turns. The frame's own
    memory."""
    name, is_planar = frame.format.name, frame.format.is_planar
    planes = frame.planes[: channels if is_planar else 1]
    count = frame.samples * (1 if is_planar else channels)
    dtype = TYPES[name.removesuffix("p")]
    return [np.frombuffer(plane, dtype, count) for plane in planes]


def concatenated(frames: list[list[np.ndarray]], channels: int) -> np.ndarray:
    """Samples [channels, n] of frames of one kind behind each other."""
    planes = [np.concatenate(parts) for parts in zip(*frames, strict=True)]
    return np.stack(planes) if len(planes) > 1 else planes[0].reshape(-1, channels).T
