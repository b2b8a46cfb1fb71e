"""Descriptions of one half (encoder or decoder) of a checkpoint, one class per structure."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class BartHalf:
    """One half (encoder or decoder) of BART's structure (Lewis et al. 2019), which Whisper's transformer shares."""

    structure: Literal["bart", "whisper"]
    hidden_size: int
    num_layers: int
    num_heads: int
    ffn_size: int
    vocab_size: int  # 0 for an encoder of audio
    activation: str
    max_positions: int
    pre_norm: bool  # LayerNorm before each sublayer (mBART, Pegasus, M2M-100, Whisper) or after it (BART, Marian)
    embedding_norm: bool  # a LayerNorm right after the embeddings (BART, mBART)
    positions: Literal[
        "learned", "sinusoidal", "fairseq"
    ]  # fairseq: M2M-100's sinusoids, in another layout
    position_offset: int  # table row of position 0
    embedding_scale: float
    padding_id: int | None = None  # a token that takes no position, where there is one (M2M-100)
    key_bias: bool = True  # Whisper's key projections have no bias
    logits_bias: bool = False  # decoder: the checkpoint may hold final_logits_bias
    mel_bins: int = 0  # encoder of audio: channels of the spectrogram

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def attention_scale(self) -> float:
        return self.head_dim**-0.5


@dataclass(frozen=True)
class T5Half:
    """One half of T5's structure (Raffel et al. 2020); gated feed-forward layers since v1.1 (Shazeer 2020)."""

    structure: Literal["t5"]
    hidden_size: int
    num_layers: int
    num_heads: int
    head_dim: int
    ffn_size: int
    vocab_size: int
    activation: str
    gated: bool
    bias_buckets: int
    bias_max_distance: int
    norm_eps: float
    logits_scale: float  # decoder: hidden states are scaled by this before a tied head
    max_positions: None = None  # relative positions: no limit of their own
    pre_norm: bool = True
    attention_scale: float = 1.0  # folded into T5's initialisation


Half = BartHalf | T5Half
