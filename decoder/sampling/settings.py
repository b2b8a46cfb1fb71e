"""The one table of what a sequence can ask of sampling: a number per slot and setting.

`Slots` keeps the numbers: on the device for the rules, and on the host for
`SamplingFeatures`, which says what any row of a step asks for. A new setting is one
line here, and a rule that reads it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import compress

import numpy as np

from antiphon.config.decoding_rules import DecodingRules, TimestampRules
from antiphon.config.sampling import SamplingParams

Dtype = type[np.generic]
OFF = -1  # of settings for which 0 would ask for something
SETTINGS_KEPT = 256  # of parameters with rules, whose numbers are worked out once


@dataclass(frozen=True)
class Setting:
    """One number of each slot.

    dtype:     of the number; uint64 stays on the host
    off:       the number that asks for nothing
    value:     (parameters, rules, vocabulary size) -> the number for a new sequence;
               None where it is the sequence's own: a length, its seed, or the row of a
               mask
    feature:   field of `SamplingFeatures` that any other number than `off` switches on
    in_graph:  whether the kernel that captured graphs hold reads it, under this name
    """

    dtype: Dtype
    off: float
    value: Callable[[SamplingParams, DecodingRules, int], float] | None
    feature: str | None = None
    in_graph: bool = False


def checked_ids(ids: Sequence[int] | np.ndarray, vocab_size: int) -> np.ndarray:
    """[ids] int64. Raises ValueError for an id outside the vocabulary: on a GPU,
    reading out of bounds ends the whole process."""
    array = np.asarray(ids) if len(ids) else np.empty(0, np.int64)
    if array.dtype.kind not in "iu":
        raise ValueError(f"token ids must be whole numbers, not {array.dtype}")
    outside = array[(array < 0) | (array >= vocab_size)]
    if len(outside):
        raise ValueError(
            f"token id {outside[0]} is outside the vocabulary of 0 to {vocab_size - 1}"
        )
    return array.astype(np.int64)


def _token_or_off(token: int | None, vocab_size: int) -> int:
    return OFF if token is None else int(checked_ids([token], vocab_size)[0])


def _timestamps(rules: TimestampRules | None, vocab_size: int) -> int:
    """0 without timestamps, else 1 and the most ticks that the first one may have."""
    if rules is None:
        return 0
    return 1 + (vocab_size if rules.max_initial is None else rules.max_initial)


def _beam_candidates(params: SamplingParams, rules: DecodingRules, vocab_size: int) -> int:
    if rules.beams is None:
        return 0
    return min(rules.beams.num_candidates(len(rules.stop_ids), bool(params.stop)), vocab_size)


# fmt: off
SETTINGS: dict[str, Setting] = {
    "prompt_len": Setting(np.int64, 0, None, in_graph=True),
    "max_len": Setting(np.int64, 0, None, in_graph=True),
    "seed": Setting(np.uint64, 0, None),
    # restrictions.py
    "mask": Setting(np.int64, 0, None, "masks", in_graph=True),
    "begin_mask": Setting(np.int64, 0, None, "masks", in_graph=True),
    "min_tokens": Setting(
        np.int64, 0, lambda params, rules, _: max(params.min_tokens, rules.min_tokens),
        "min_tokens", in_graph=True,
    ),
    "timestamps": Setting(
        np.int64, 0, lambda _, rules, words: _timestamps(rules.timestamps, words),
        "timestamps", in_graph=True,
    ),
    "forced_first": Setting(
        np.int64, OFF, lambda _, rules, words: _token_or_off(rules.forced_first, words),
        "forced", in_graph=True,
    ),
    "forced_last": Setting(
        np.int64, OFF, lambda _, rules, words: _token_or_off(rules.forced_last, words),
        "forced", in_graph=True,
    ),
    # penalties.py
    "repetition_penalty": Setting(
        np.float32, 1, lambda params, *_: params.repetition_penalty, "penalties"
    ),
    "presence_penalty": Setting(
        np.float32, 0, lambda params, *_: params.presence_penalty, "penalties"
    ),
    "frequency_penalty": Setting(
        np.float32, 0, lambda params, *_: params.frequency_penalty, "penalties"
    ),
    "no_repeat_ngram": Setting(np.int64, 0, lambda _, rules, __: rules.no_repeat_ngram, "ngrams"),
    "bad_words": Setting(np.int64, 0, lambda _, rules, __: bool(rules.bad_words), "bad_words"),
    # drawing.py
    "temperature": Setting(np.float32, 0, lambda params, *_: params.temperature, "random"),
    "top_k": Setting(np.int64, 0, lambda params, *_: max(params.top_k, 0)),
    "top_p": Setting(np.float32, 1, lambda params, *_: params.top_p),
    "min_p": Setting(np.float32, 0, lambda params, *_: params.min_p),
    # samples.py, logprobs.py
    "ranked": Setting(
        np.int64, 0, lambda params, *_: params.logprobs is not None, "ranks", in_graph=True
    ),
    "top_logprobs": Setting(
        np.int64, 0, lambda params, _, words: min(params.logprobs or 0, words), "top_logprobs"
    ),
    # beams.py
    "beam_candidates": Setting(np.int64, 0, _beam_candidates, "beams"),
    "beams_by_whisper": Setting(
        np.int64, 0, lambda _, rules, __: rules.beams is not None and rules.beams.by_whisper
    ),
    "beams_renormalized": Setting(
        np.int64, 0, lambda _, rules, __: rules.beams is not None and rules.beams.renormalize
    ),
}
# fmt: on
GRAPH_SETTINGS = tuple(name for name, setting in SETTINGS.items() if setting.in_graph)


_DTYPES: tuple[Dtype, ...] = (np.int64, np.float32, np.uint64)
_NAMES: dict[Dtype, tuple[str, ...]] = {
    dtype: tuple(name for name, setting in SETTINGS.items() if setting.dtype is dtype)
    for dtype in _DTYPES
}
_OFF: dict[Dtype, np.ndarray] = {
    dtype: np.array([[SETTINGS[name].off] for name in names], dtype)
    for dtype, names in _NAMES.items()
}


# What runs behind a graph for rows that ask, and the features that ask for it: another
# choice of the token, and the likeliest tokens; the token's rank where ranks share the
# vocabulary.
_GROUPS = {
    "resampled": ("penalties", "ngrams", "bad_words", "random"),
    "top_logprobs": ("top_logprobs",),
    "ranked": ("ranks",),
    "beams": ("beams",),
}
# Of each group: the settings that ask for it, and the numbers by which they don't.
_ASKING = {
    group: [
        (name, setting.off) for name, setting in SETTINGS.items() if setting.feature in features
    ]
    for group, features in _GROUPS.items()
}
_NO_ROWS = np.empty(0, np.int64)


@lru_cache(SETTINGS_KEPT)
def _columns(
    params: SamplingParams, rules: DecodingRules, vocab_size: int
) -> list[tuple[Dtype, np.ndarray]]:
    """The numbers of a sequence, in the order of `SettingsTable.rows`; `off` where they
    are its own. Most sequences ask for what others did. Raises TypeError or ValueError
    for a value that no setting can have."""

    def number(setting: Setting) -> float:
        return setting.off if setting.value is None else setting.value(params, rules, vocab_size)

    return [
        (dtype, np.array([number(SETTINGS[name]) for name in names], dtype))
        for dtype, names in _NAMES.items()
    ]


class SettingsTable:
    """The numbers of every slot, on the host.

    `rows[dtype]` is [settings, slots], with the settings of that dtype in the order of
    `names(dtype)`; `by_name[name]`, or `table[name]`, [slots] is a view of one row.
    """

    def __init__(self, num_slots: int) -> None:
        self.rows = {dtype: np.repeat(off, num_slots, axis=1) for dtype, off in _OFF.items()}
        self._asking = {group: np.zeros(num_slots, bool) for group in _GROUPS}
        self._num_asking = dict.fromkeys(_GROUPS, 0)
        self.is_asked = False  # whether any slot asks for any of them
        self.by_name = {
            name: row
            for dtype, names in _NAMES.items()
            for name, row in zip(names, self.rows[dtype], strict=True)
        }

    @staticmethod
    def names(dtype: Dtype) -> tuple[str, ...]:
        return _NAMES[dtype]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.by_name[name]

    def write(
        self,
        slot: int,
        params: SamplingParams,
        rules: DecodingRules,
        vocab_size: int,
        own: Mapping[str, int],
    ) -> None:
        """All settings of a sequence; `own`, by name: those that are not the same for
        others with these `params` and `rules`. Raises TypeError or ValueError for a
        value that no setting can have; the slot is then half written."""
        for dtype, numbers in _columns(params, rules, vocab_size):
            self.rows[dtype][:, slot] = numbers
        for name, number in own.items():
            self.by_name[name][slot] = number

    def clear(self, slot: int) -> None:
        """Switches every setting of `slot` off."""
        for dtype, off in _OFF.items():
            self.rows[dtype][:, slot] = off[:, 0]

    def note_asking(self, slots: np.ndarray) -> None:
        """Notes which of `slots` [n], newly set, ask for what graphs lack."""
        for group, settings in _ASKING.items():
            asking = np.zeros(len(slots), bool)
            for name, off in settings:
                asking |= self.by_name[name][slots] != off
            if group == "resampled":  # beams' candidates are under all rules, and the host chooses
                asking &= self.by_name["beam_candidates"][slots] == 0
            self._asking[group][slots] = asking
            self._num_asking[group] = int(self._asking[group].sum())
        self.is_asked = any(self._num_asking.values())

    def rows_asking(self, group: str, slots: np.ndarray) -> np.ndarray:
        """The rows [n] of a step whose sequence, in `slots` [rows], asks for `group`:
        "resampled", "top_logprobs", "ranked" or "beams". Free while no slot asks."""
        if not self._num_asking[group]:
            return _NO_ROWS
        rows: np.ndarray = np.flatnonzero(self._asking[group][slots])
        return rows

    def in_use(self, slots: np.ndarray) -> list[str]:
        """Names of the settings that any of `slots` [n] has switched on, without seeds,
        which are always in use."""
        names: list[str] = []
        for dtype in (np.int64, np.float32):
            numbers = self.rows[dtype].take(slots, axis=1)  # three times as fast as [:, slots]
            names += compress(_NAMES[dtype], (numbers != _OFF[dtype]).any(1).tolist())
        return names


@dataclass(frozen=True)
class SamplingFeatures:
    """What any row of a step asks for. A rule that no row asks for costs nothing."""

    masks: bool = False
    min_tokens: bool = False
    timestamps: bool = False
    forced: bool = False
    penalties: bool = False
    ngrams: bool = False
    bad_words: bool = False
    random: bool = False
    ranks: bool = False
    top_logprobs: bool = False
    beams: bool = False

    @property
    def beams_by_kernels(self) -> bool:
        """Whether kernels know all rules that beams ask for."""
        return not (self.penalties or self.ngrams or self.bad_words or self.ranks)

    @classmethod
    def of(cls, table: SettingsTable, slots: np.ndarray) -> "SamplingFeatures":
        """Those of `slots` [rows]."""
        return _features(tuple(table.in_use(slots)))


@lru_cache(SETTINGS_KEPT)
def _features(names: tuple[str, ...]) -> SamplingFeatures:
    """Those that these settings switch on."""
    features = (SETTINGS[name].feature for name in names)
    return SamplingFeatures(**{feature: True for feature in features if feature is not None})


GRAPH_FEATURES = SamplingFeatures(
    masks=True, min_tokens=True, timestamps=True, forced=True, ranks=True
)
