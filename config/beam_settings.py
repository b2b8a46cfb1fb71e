"""Beam search of a checkpoint: what its generation config and a caller ask for."""

from dataclasses import dataclass
from typing import Literal

from antiphon.config.decoding_rules import BeamRules
from antiphon.config.generation_settings import SettingsReader
from antiphon.config.sampling import SamplingParams


@dataclass(frozen=True)
class BeamDefaults:
    """A checkpoint's settings. None: it says nothing, or null."""

    size: int = 1
    length_penalty: float | None = None
    early_stopping: bool | Literal["never"] | None = None
    renormalize: bool = False

    @classmethod
    def of(cls, read: SettingsReader) -> "BeamDefaults":
        """Raises CheckpointError."""
        is_flag = read.settings.get("num_beams") is True  # 1 to Python, and so to transformers
        return cls(
            1 if is_flag else read.count("num_beams", least=1) or 1,
            read.sampling("length_penalty"),
            read.sampling("early_stopping"),
            read.flag("renormalize_logits"),
        )

    def rules(self, params: SamplingParams, is_whisper: bool) -> BeamRules | None:
        """The rules for `params`, which are complete; None for a request of one
        sequence.

        The checkpoint's `num_beams` holds where the caller left `beam_size` open and
        wants one greedy output. Whisper is searched by openai/whisper's rule, unless
        the caller gives `early_stopping`, which only transformers has. Other families
        are searched by transformers' rule, unless the caller gives `patience`. The
        checkpoint's other settings are meant for transformers' rule.
        """
        size = params.beam_size
        if params.leaves_open("beam_size") and params.temperature == 0.0 and params.n == 1:
            size = self.size
        if size == 1:
            return None
        names = params.fields_set
        by_whisper = "patience" in names or (is_whisper and "early_stopping" not in names)
        length_penalty, early_stopping = params.length_penalty, params.early_stopping
        if not by_whisper:
            if params.leaves_open("length_penalty"):
                length_penalty = self.length_penalty
            if params.leaves_open("early_stopping"):
                early_stopping = self.early_stopping or False
        return BeamRules(
            size,
            params.n,
            by_whisper,
            length_penalty,
            early_stopping,
            params.patience,
            renormalize=self.renormalize and not by_whisper,
        )
