"""Descriptions of Moonshine's halves (Jeffries et al. 2024); see `halves`."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from antiphon.config.errors import CheckpointError
from antiphon.families.audio_config import AudioConfig, WaveformConfig
from antiphon.families.halves import Half
from antiphon.families.rotary import Rotary
from antiphon.families.tensor_names import EMBEDDING, HEAD, HEADS


@dataclass(frozen=True, kw_only=True)
class MoonshineHalf(Half):
    """LayerNorms without a shift before each sublayer, and rotary positions that turn neighbouring
    features of a part of each head."""

    structure: ClassVar[str] = "moonshine"

    pre_norm: bool = True
    max_positions: int
    rotary: Rotary
    qkv_bias: bool

    @property
    def feed_forward_matrices(self) -> int:
        return 3  # the decoder's are gated

    @property
    def last_norm(self) -> str:
        return "norm"

    def checkpoint_names(self, path: str) -> tuple[str, ...]:
        """`layers.3.attention.o_proj.weight` is `model.decoder.layers.3.self_attn.o_proj.weight`,
        with nothing before `decoder` in a bare model."""
        if path == HEAD:
            return *HEADS, *self.checkpoint_names(EMBEDDING)
        stored = path.replace(".cross_attention.", ".encoder_attn.")
        stored = stored.replace(".attention.", ".self_attn.").replace(".fc", ".mlp.fc")
        return f"model.{self.side}.{stored}", f"{self.side}.{stored}"

    def check(self, model: str) -> None:
        super().check(model)
        if self.num_kv_heads != self.num_heads:
            raise CheckpointError(
                f"{model}: {self.num_heads} heads of its {self.side} for {self.num_kv_heads} of "
                "keys and values: transformers reads no Moonshine whose heads share keys"
            )
        if self.rotary.size % 2 or not 0 < self.rotary.size <= self.head_dim:
            raise CheckpointError(
                f"{model}: rotary positions of {self.rotary.size} features do not fit a head of "
                f"{self.head_dim}: an even number is needed, at most a head's"
            )


@dataclass(frozen=True, kw_only=True)
class MoonshineEncoderHalf(MoonshineHalf):
    """Convolutions over samples, then layers over what they make."""

    frontend: ClassVar[str] = "waveform"

    @property
    def feed_forward_matrices(self) -> int:
        return 2

    @property
    def last_norm(self) -> str:
        return "layer_norm"

    def audio_config(self, folder: Path) -> AudioConfig:
        return WaveformConfig.of_checkpoint(folder)
