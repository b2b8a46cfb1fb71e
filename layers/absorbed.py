"""Projections of keys and values that are moved to the other side of attention.

Attention to keys `k = W_k h + b_k` and values `v = W_v h + b_v` of hidden states h is attention to
the states themselves:

    q . k = (W_k^T q) . h + q . b_k      the last term is the same for all states of a sequence: a
                                         softmax does not see it
    sum p v = W_v (sum p h) + b_v        since the weights p add up to 1

So queries become as wide as the states, and what attention gives is projected behind it (as
DeepSeek-V2, Liu et al. 2024, section 2.1, does with its latents).
"""

import torch
from torch import nn

from antiphon.layers.linear import StackedLinear


class AbsorbedProjections(nn.Module):
    """`keys`, `values` [kv_heads, head_dim, states' width]; `value_bias` [kv_heads * head_dim]."""

    def __init__(self, keys_values: StackedLinear, head_dim: int) -> None:
        """Takes over the weights of `keys_values`, which makes keys and values as its last two
        parts. Quantised ones are multiplied out."""
        super().__init__()
        dtype = keys_values.weight.dtype
        keys, values = list(keys_values.parts)[-2:]
        (k, _), (v, bias) = map(keys_values.tensors_of, (keys, values))
        self.keys, self.values = (
            nn.Parameter(weight.to(dtype).unflatten(0, (-1, head_dim)), requires_grad=False)
            for weight in (k, v)
        )
        self.value_bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def read_scaled(self, factor: float) -> None:
        """States come multiplied by `factor` from now on."""
        self.keys.mul_(1 / factor)
        self.values.mul_(1 / factor)

    def queries(self, q: torch.Tensor) -> torch.Tensor:
        """[tokens, heads, head_dim] -> [tokens, heads, width]: what asks states as `q` asks
        keys."""
        return _by_head(q, self.keys)

    def outputs(self, attended: torch.Tensor) -> torch.Tensor:
        """Weighted sums of states [tokens, heads, width] -> those of values, [tokens, heads,
        head_dim]."""
        values = _by_head(attended, self.values.transpose(1, 2))
        if self.value_bias is None:
            return values
        bias = self.value_bias.view(len(self.values), 1, -1)
        shared = values.unflatten(1, (len(bias), -1)) + bias
        return shared.flatten(1, 2)

    def keys_of(self, heads: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """What `heads` [n] of keys make of `states` [tokens, width], without a bias: [tokens, n,
        head_dim]."""
        weight = self.keys.index_select(0, heads)
        return (states @ weight.flatten(0, 1).t()).unflatten(1, weight.shape[:2])


def _by_head(rows: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    """`rows` [tokens, heads, in] times `matrices` [kv_heads, in, out], each shared by equally many
    heads, one after the other: [tokens, heads, out]."""
    tokens, heads, _ = rows.shape
    kv_heads, _, width = matrices.shape
    shared = rows.unflatten(1, (kv_heads, -1)).transpose(0, 1).flatten(1, 2)
    product = torch.bmm(shared, matrices)  # [kv_heads, tokens * heads of each, out]
    out = product.unflatten(1, (tokens, -1)).transpose(0, 1)
    return out.reshape(tokens, heads, width)
