"""One embedding of each image, made of its hidden states."""

from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from antiphon.families.image_halves import VitHalf
from antiphon.layers.activations import Activation
from antiphon.layers.linear import Linear
from antiphon.layers.norms import LayerNorm


class Pooler(nn.Module):
    """`projection`: behind the embedding, where a checkpoint has one (CLIP)."""

    def __init__(self, half: VitHalf) -> None:
        super().__init__()
        self.projection = None
        if half.pooled_size:
            self.projection = Linear(half.hidden_size, half.pooled_size, bias=False)

    def forward(self, hidden: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        """Packed [tokens, hidden] of images of these `lengths` -> [images, pooled size]."""
        pooled = torch.stack([self.one(tokens) for tokens in hidden.split(list(lengths))])
        return pooled if self.projection is None else self.projection(pooled)

    @abstractmethod
    def one(self, tokens: torch.Tensor) -> torch.Tensor:
        """One image's [tokens, hidden] -> [hidden]."""


class NormedFirstToken(Pooler):
    """The class token, normed."""

    def __init__(self, half: VitHalf) -> None:
        super().__init__(half)
        self.norm = LayerNorm(half.hidden_size, half.norm_eps)

    def one(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.norm.in_torch(tokens[0])


class FirstToken(Pooler):
    """The class token as it is."""

    def one(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens[0]


class NormedPatches(NormedFirstToken):
    """The mean of all but the class token, normed."""

    def one(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.norm.in_torch(tokens[1:].mean(0))


class DenseFirstToken(Pooler):
    """The class token, behind a linear layer and a tanh."""

    def __init__(self, half: VitHalf) -> None:
        super().__init__(half)
        self.dense = Linear(half.hidden_size, half.hidden_size)

    def one(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.dense(tokens[:1])[0])


class Attention(nn.Module):
    """A query's attention to all tokens of an image, with its projections stacked as torch's
    MultiheadAttention has them."""

    def __init__(self, half: VitHalf) -> None:
        super().__init__()
        size = half.hidden_size
        self.num_heads = half.num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * size, size), requires_grad=False)
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * size), requires_grad=False)
        self.out_proj = Linear(size, size)

    def forward(self, query: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """[1, hidden] and [tokens, hidden] -> [1, hidden]."""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, weight, bias).unflatten(-1, (self.num_heads, -1)).transpose(0, 1)[None]
            for x, weight, bias in zip((query, tokens, tokens), weights, biases, strict=True)
        )
        attended = F.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1).flatten(1)
        out: torch.Tensor = self.out_proj(attended)
        return out


class AttentionPooler(Pooler):
    """A learned query's attention to all tokens, and a feed-forward layer (SigLIP, Zhai et al.
    2023)."""

    def __init__(self, half: VitHalf) -> None:
        super().__init__(half)
        size = half.hidden_size
        self.probe = nn.Parameter(torch.empty(size), requires_grad=False)
        self.attention = Attention(half)
        self.feed_forward_norm = LayerNorm(size, half.norm_eps)
        self.fc1, self.fc2 = Linear(size, half.ffn_size), Linear(half.ffn_size, size)
        self.activation = Activation(half.activation)

    def one(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.attention(self.probe[None], tokens)
        normed = self.feed_forward_norm.in_torch(x)
        added: torch.Tensor = self.fc2(self.fc1.activated(normed, self.activation))
        return (x + added)[0]


POOLERS: dict[str, Callable[[VitHalf], Pooler]] = {  # by `VitHalf.pooling`
    "first": FirstToken,
    "first_normed": NormedFirstToken,
    "first_tanh": DenseFirstToken,
    "attention": AttentionPooler,
    "patches_normed": NormedPatches,
}


def build_pooler(half: VitHalf) -> Pooler | None:
    """None for an encoder without."""
    return None if half.pooling is None else POOLERS[half.pooling](half)
