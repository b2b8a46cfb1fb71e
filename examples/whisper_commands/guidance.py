"""Guides heads of the cross-attention to where each word is said, for word timestamps."""

from typing import Any

import torch
from checkpoint import ALIGNMENT_HEADS

EARLIER, LATER = 2, 1  # encoder tokens beside a word that its attention may have


class Attention:
    """The attention of `ALIGNMENT_HEADS` in a model's last forward, from hooks on its layers."""

    def __init__(self, model: Any, heads: list[list[int]] = ALIGNMENT_HEADS) -> None:
        self.heads = heads
        self._queries: dict[int, torch.Tensor] = {}
        self._keys: dict[int, torch.Tensor] = {}
        for layer in {layer for layer, _ in heads}:
            attention = model.model.decoder.layers[layer].encoder_attn
            self._scale, self._width = attention.scaling, attention.head_dim
            attention.q_proj.register_forward_hook(self._keep(self._queries, layer))
            attention.k_proj.register_forward_hook(self._keep(self._keys, layer))

    @staticmethod
    def _keep(kept: dict[int, torch.Tensor], layer: int) -> Any:
        def hook(module: Any, inputs: Any, output: torch.Tensor) -> None:
            kept[layer] = output

        return hook

    def weights(self) -> torch.Tensor:
        """[heads, batch, decoder tokens, encoder tokens], float32."""
        weights = []
        for layer, head in self.heads:
            columns = slice(head * self._width, (head + 1) * self._width)
            queries, keys = self._queries[layer][..., columns], self._keys[layer][..., columns]
            scores = (queries * self._scale) @ keys.transpose(-1, -2)
            weights.append(scores.float().softmax(-1))
        return torch.stack(weights)


def mass_in(weights: torch.Tensor, spans: torch.Tensor) -> torch.Tensor:
    """[heads, words]: how much of each word's attention lies in its span.

    `weights` [heads, batch, tokens, frames]; `spans` [batch, tokens, 2], below 0 for no word.
    """
    is_said = spans[..., 0] >= 0
    first, last = (spans[is_said][:, edge, None] for edge in (0, 1))
    frames = torch.arange(weights.shape[-1], device=weights.device)
    inside = (frames >= first - EARLIER) & (frames < last + LATER)
    mass: torch.Tensor = (weights[:, is_said] * inside).sum(-1)
    return mass


def guidance_loss(weights: torch.Tensor, spans: torch.Tensor) -> torch.Tensor:
    """Mean negative logarithm of `mass_in`; 0 where nothing is said."""
    losses = -(mass_in(weights, spans) + 1e-6).log()
    return losses.sum() / max(1, losses.numel())
