"""What a checkpoint demands of every request: plain numbers for every layer."""

from dataclasses import dataclass, replace
from typing import Any, Literal

LAST_ID = 2**31 - 1  # above every token id
# Further candidates for each sequence of a beam search with stop strings: a token that
# completes a stop string ends its sequence, and may be likelier than the tokens with
# which the sequence goes on.
ENDS_BY_TEXT = 32


@dataclass(frozen=True)
class TimestampRules:
    """Whisper's rules for timestamp tokens (Radford et al. 2022; openai/whisper
    `ApplyTimestampRules`)."""

    first_id: int  # <|0.00|>
    no_timestamps_id: int
    end_id: int  # ids below it are text
    max_initial: int | None  # the first timestamp is at most this many ticks
    last_id: int = LAST_ID  # the window's end; tokens above it were added to the vocabulary: text

    def holds(self, ids: Any) -> Any:
        """Which of `ids` are timestamps; a tensor or an array, as `ids` is one."""
        return (ids >= self.first_id) & (ids <= self.last_id)


@dataclass(frozen=True)
class BeamRules:
    """Beam search of one request: as in transformers, or as openai/whisper has it.

    size:            sequences that are kept in every step
    num_best:        of them, how many are returned
    by_whisper:      by openai/whisper's rule: which sequences are kept, when the search
                     ends, and how they are ranked
    length_penalty:  transformers: scores are divided by length ** length_penalty.
                     openai/whisper: by ((5 + length) / 6) ** length_penalty, and None:
                     by the length
    early_stopping:  transformers: True ends the search once `size` sequences have
                     ended; False goes on while a better one is likely, "never" while
                     one is possible
    patience:        openai/whisper: the search ends with round(size * patience)
                     sequences
    renormalize:     transformers: what the rules leave of each token's probabilities
                     counts as all of them
    """

    size: int
    num_best: int = 1
    by_whisper: bool = False
    length_penalty: float | None = None
    early_stopping: bool | Literal["never"] = False
    patience: float = 1.0
    renormalize: bool = False

    def num_candidates(self, num_stop_ids: int, by_text: bool) -> int:
        """Tokens that a step must name for each sequence: any may be among the best.

        by_text: whether stop strings end sequences, too. By openai/whisper's rule,
        which has no stop strings, `size` sequences go on whatever ends, so more tokens
        must be named.
        """
        if self.by_whisper:
            return self.size + max(1, num_stop_ids) + (ENDS_BY_TEXT if by_text else 0)
        return self.size * max(2, 1 + num_stop_ids)


@dataclass(frozen=True)
class DecodingRules:
    """The rules of one request, from the generation config and its parameters."""

    stop_ids: tuple[int, ...] = ()
    suppress: tuple[int, ...] = ()  # never generated
    begin_suppress: tuple[int, ...] = ()  # not generated as the first token
    forced_first: int | None = None  # the first generated token
    forced_last: int | None = None  # the token at the length limit
    min_tokens: int = 0  # generated before a stop token may come
    no_repeat_ngram: int = 0  # no sequence of this length comes twice; 0 is off
    bad_words: tuple[tuple[int, ...], ...] = ()  # sequences of two or more tokens, never completed
    timestamps: TimestampRules | None = None
    beams: BeamRules | None = None  # None: one sequence


@dataclass(frozen=True)
class RuleChanges:
    """What a caller changes of a checkpoint's rules; None leaves it.

    max_initial: as that of `TimestampRules`, where these hold.
    """

    suppress: tuple[int, ...] | None = None
    begin_suppress: tuple[int, ...] | None = None
    max_initial: int | None = None

    def applied(self, rules: DecodingRules) -> DecodingRules:
        if self == NO_CHANGES:
            return rules
        timestamps = rules.timestamps
        if timestamps is not None and self.max_initial is not None:
            timestamps = replace(timestamps, max_initial=self.max_initial)
        return replace(
            rules,
            suppress=rules.suppress if self.suppress is None else self.suppress,
            begin_suppress=(
                rules.begin_suppress if self.begin_suppress is None else self.begin_suppress
            ),
            timestamps=timestamps,
        )


NO_CHANGES = RuleChanges()
