"""Descriptions of one half of a checkpoint (its encoder or its decoder), one class per structure.

A half says everything that the rest of the engine may ask about a structure: sizes, facts that
attention and caches depend on, and the names of its tensors. `structure` itself is read by the
registries of model classes alone (`encoder/models/__init__.py`, `decoder/models/__init__.py`).
"""

from abc import ABC, abstractmethod
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from antiphon.config.errors import CheckpointError
from antiphon.families.audio_config import AudioConfig
from antiphon.families.rotary import Rotary
from antiphon.families.tensor_names import (
    HEAD,
    HEAD_BIAS,
    HEADS,
    Side,
    bart_names,
    llama_names,
    t5_names,
)


@dataclass(frozen=True)
class HeadTensors:
    """How a checkpoint stores the matrix that turns hidden states into logits."""

    tied: bool  # it is the token embedding's matrix
    bias: bool  # the checkpoint holds final_logits_bias


@dataclass(frozen=True, kw_only=True)
class Half(ABC):
    """One half of a checkpoint, whatever its structure."""

    structure: ClassVar[str]  # key of the registries of model classes
    relative_bias: ClassVar[bool] = False  # self-attention adds a learned bias by distance
    # Layers read streams of one shape, so they may be spread over the stages of a pipeline.
    equal_layers: ClassVar[bool] = True
    frontend: ClassVar[str] = "text"  # of an encoder: key of the registry of frontends
    equal_windows: ClassVar[bool] = False  # an encoder's inputs are all equally long (audio)
    cross_attention: ClassVar[bool] = True  # a decoder attends to an encoder's hidden states
    # Inputs that a decoder attends to; where several, to each from its token in the prompt on.
    most_attended: ClassVar[int] = 1

    side: Side
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int  # heads of keys and values, each shared by equally many heads of queries
    head_dim: int
    attention_scale: float  # factor on the product of a query and a key
    ffn_size: int
    vocab_size: int  # 0 for an encoder of audio or images
    activation: str
    padding_id: int | None = None  # a token that takes no position, in families that have one
    pre_norm: bool  # a norm before each sublayer and at the end; otherwise behind each sublayer
    max_positions: int | None  # None: relative positions set no limit
    score_cap: float | None = None  # scores of attention stay within it, by a tanh
    stored_gain_offset: float = 0.0  # is added to the gains of norms that checkpoints hold
    cross_size: int | None = None  # width of the hidden states attended to; None: as its own
    any_start: bool = False  # a decoder's prompt begins with any token, where one is given

    @property
    def one_stage(self) -> str:
        """Why its layers can't be shared by stages; empty where they can."""
        return ""

    @property
    def most_tensor_ranks(self) -> int:
        """How many ranks may share its layers' heads: each of them needs one."""
        return self.num_heads

    @property
    def window_bias(self) -> bool:
        """Whether self-attention adds a learned bias between places of an image or a window."""
        return False

    @property
    def position_axes(self) -> int:
        """Positions of a token: one, or frame, row and column."""
        return 1

    @property
    def output_size(self) -> int:
        """Features of what the half returns."""
        return self.hidden_size

    @property
    def needs_keys(self) -> str:
        """Why a decoder can't attend to hidden states themselves; empty where it can."""
        return "" if self.cross_attention else "it attends to its own tokens alone"

    @property
    def num_embedded(self) -> int:
        """Token ids that it reads; those from `vocab_size` on are never written."""
        return self.vocab_size

    @property
    def attention_head_dim(self) -> int:
        """Features of a head as attention sees it: `head_dim`, unless a model adds some."""
        return self.head_dim

    @property
    @abstractmethod
    def feed_forward_matrices(self) -> int:
        """Matrices of hidden_size by ffn_size in each layer."""

    @property
    @abstractmethod
    def last_norm(self) -> str:
        """Path of the norm whose output the half returns."""

    @abstractmethod
    def checkpoint_names(self, path: str) -> tuple[str, ...]:
        """Names under which checkpoints hold the tensor at `path`, in order of preference."""

    @property
    def head_names(self) -> tuple[str, ...]:
        """Names under which checkpoints hold a matrix of the head's own, in order of preference."""
        return HEADS

    def skips(self, name: str) -> bool:
        """Whether a checkpoint's tensor of this name is of a part of the half that is not run."""
        return False

    def ties_head(self, stored: bool, configured: bool) -> bool:
        """Whether the head is the embedding's matrix.

        `stored`: the checkpoint holds a matrix for the head. `configured`: config.json ties them.
        """
        return configured or not stored

    def head_tensors(self, tensors: Container[str], configured: bool) -> HeadTensors:
        """`tensors`: names in the checkpoint. `configured`: config.json ties head and embedding."""
        stored = any(name in tensors for name in self.head_names)
        return HeadTensors(self.ties_head(stored, configured), HEAD_BIAS in tensors)

    def audio_config(self, folder: Path) -> AudioConfig | None:
        """How an audio encoder of this checkpoint folder wants its samples; None for text.

        Raises CheckpointError for settings that contradict the model's.
        """
        return None

    def check(self, model: str) -> None:
        """Raises CheckpointError for sizes that contradict each other; names `model` in it."""
        if self.num_kv_heads < 1 or self.num_heads % self.num_kv_heads:
            raise CheckpointError(
                f"{model}: {self.num_heads} heads of its {self.side} can't share "
                f"{self.num_kv_heads} heads of keys and values equally"
            )


@dataclass(frozen=True, kw_only=True)
class BartHalf(Half):
    """BART's structure (Lewis et al. 2019), which Whisper's transformer shares."""

    structure: ClassVar[str] = "bart"

    max_positions: int
    embedding_norm: bool  # a LayerNorm right after the embeddings (BART, mBART)
    positions: Literal["learned", "sinusoidal", "fairseq"]  # fairseq: M2M-100's layout of sinusoids
    position_offset: int  # row of the table that holds position 0
    embedding_scale: float
    key_bias: bool = True  # Whisper's key projections have no bias
    prefix: str = ""  # before the names of its tensors, where it is a part of a larger model

    @property
    def feed_forward_matrices(self) -> int:
        return 2

    @property
    def last_norm(self) -> str:
        return "layer_norm" if self.pre_norm else f"layers.{self.num_layers - 1}.final_layer_norm"

    @property
    def head_names(self) -> tuple[str, ...]:
        """Behind `prefix`, or outside of that part."""
        return (*(f"{self.prefix}{name}" for name in HEADS), *HEADS)

    def checkpoint_names(self, path: str) -> tuple[str, ...]:
        names = tuple(f"{self.prefix}{name}" for name in bart_names(self.side, path))
        return (*self.head_names, *names) if path == HEAD else names

    def check(self, model: str) -> None:
        super().check(model)
        if self.hidden_size % self.num_heads:
            raise CheckpointError(
                f"{model}: {self.side} hidden size {self.hidden_size} is not a multiple of its "
                f"{self.num_heads} heads"
            )


@dataclass(frozen=True, kw_only=True)
class WhisperEncoderHalf(BartHalf):
    """Whisper's encoder (Radford et al. 2022): BART's layers over a spectrogram."""

    structure: ClassVar[str] = "whisper"
    frontend: ClassVar[str] = "audio"
    equal_windows: ClassVar[bool] = True

    mel_bins: int  # channels of the spectrogram

    def audio_config(self, folder: Path) -> AudioConfig:
        return AudioConfig.load(folder, self.mel_bins, self.max_positions)


@dataclass(frozen=True, kw_only=True)
class T5Half(Half):
    """T5's structure (Raffel et al. 2020); gated feed-forward layers since v1.1 (Shazeer 2020)."""

    structure: ClassVar[str] = "t5"
    relative_bias: ClassVar[bool] = True

    pre_norm: bool = True
    max_positions: None = None
    attention_scale: float = 1.0  # folded into T5's initialization
    gated: bool
    bias_buckets: int
    bias_max_distance: int
    norm_eps: float
    logits_scale: float  # a decoder's hidden states are scaled by this before a tied head

    @property
    def feed_forward_matrices(self) -> int:
        return 3 if self.gated else 2

    @property
    def last_norm(self) -> str:
        return "final_layer_norm"

    def checkpoint_names(self, path: str) -> tuple[str, ...]:
        return t5_names(self.side, path)

    def ties_head(self, stored: bool, configured: bool) -> bool:
        """T5's config.json says nothing reliable about tying: a head that is stored is used."""
        return not stored


@dataclass(frozen=True, kw_only=True)
class LlamaHalf(Half):
    """The structure of Llama (Touvron et al. 2023), Qwen2 and Qwen3: a decoder that attends to its
    own tokens alone, with RMS norms, rotary positions, grouped heads and a gated feed-forward
    layer."""

    structure: ClassVar[str] = "llama"
    cross_attention: ClassVar[bool] = False

    pre_norm: bool = True
    max_positions: int
    norm_eps: float
    rotary: Rotary
    qkv_bias: bool
    output_bias: bool  # of the projection behind attention
    ffn_bias: bool
    head_norms: bool = False  # an RMS norm of each head of queries and keys (Qwen3)

    @property
    def feed_forward_matrices(self) -> int:
        return 3

    @property
    def last_norm(self) -> str:
        return "norm"

    @property
    def position_axes(self) -> int:
        return len(self.rotary.sections) or 1

    def checkpoint_names(self, path: str) -> tuple[str, ...]:
        return llama_names(path)

    def ties_head(self, stored: bool, configured: bool) -> bool:
        """Raises CheckpointError for a head that is neither tied nor stored."""
        if not (stored or configured):
            raise CheckpointError(
                f"the checkpoint holds no {HEADS[0]}, and config.json has tie_word_embeddings=false"
            )
        return configured

    def check(self, model: str) -> None:
        super().check(model)
        if self.rotary.size % 2 or not 0 < self.rotary.size <= self.head_dim:
            raise CheckpointError(
                f"{model}: rotary positions of {self.rotary.size} features do not fit a head of "
                f"{self.head_dim}: an even number is needed, at most a head's"
            )
        if (sections := self.rotary.sections) and (
            len(sections) != 3 or sum(sections) != self.rotary.size // 2
        ):
            raise CheckpointError(
                f"{model}: mrope_section={list(sections)} must be three numbers of planes, "
                f"{self.rotary.size // 2} in all"
            )
