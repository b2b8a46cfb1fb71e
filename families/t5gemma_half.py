"""Description of T5Gemma's halves (Zhang et al. 2025); see `halves`."""

from dataclasses import dataclass
from typing import ClassVar

from antiphon.config.errors import CheckpointError
from antiphon.families.halves import Half
from antiphon.families.rotary import Rotary
from antiphon.families.tensor_names import EMBEDDING, HEAD


@dataclass(frozen=True, kw_only=True)
class T5GemmaHalf(Half):
    """Gemma 2's layers: RMS norms before and behind each sublayer, rotary positions, grouped heads,
    capped scores and logits, a gated feed-forward layer."""

    structure: ClassVar[str] = "t5gemma"

    pre_norm: bool = True
    max_positions: int
    norm_eps: float
    stored_gain_offset: float = 1.0  # a gain of 1 is stored as 0
    rotary: Rotary
    projection_bias: bool  # of all projections around attention
    score_cap: float | None
    logits_cap: float | None
    cross_size: int  # width of the hidden states that a decoder attends to

    @property
    def needs_keys(self) -> str:
        if self.score_cap is None or not self.projection_bias:
            return super().needs_keys
        return "its keys have a bias, which a cap on scores does not let cancel"

    @property
    def feed_forward_matrices(self) -> int:
        return 3

    @property
    def last_norm(self) -> str:
        return "norm"

    @property
    def head_names(self) -> tuple[str, ...]:
        return ("lm_head.out_proj.weight",)

    def checkpoint_names(self, path: str) -> tuple[str, ...]:
        """`layers.3.attention.o_proj.weight` is `model.encoder.layers.3.self_attn.o_proj.weight`,
        with nothing before `encoder` in a bare model."""
        if path == HEAD:
            return *self.head_names, *self.checkpoint_names(EMBEDDING)
        stored = path.replace(".cross_attention.", ".cross_attn.")
        stored = stored.replace(".attention.", ".self_attn.").replace(".feed_forward.", ".mlp.")
        return f"model.{self.side}.{stored}", f"{self.side}.{stored}"

    def check(self, model: str) -> None:
        super().check(model)
        if self.rotary.size % 2:
            raise CheckpointError(
                f"{model}: rotary positions need heads of an even size, not {self.head_dim}"
            )
