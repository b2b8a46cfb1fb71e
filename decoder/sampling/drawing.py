"""Draws tokens at random. A row's draw depends only on its own settings, seed and
position, so it is the same in any batch."""

import numpy as np
import torch

from antiphon.decoder.sampling.rows import SampledRows
from antiphon.runtime.device import to_device

MINUS_INF = float("-inf")


def likeliest(logits: torch.Tensor) -> torch.Tensor:
    """Tokens [rows] int64 of the largest `logits` [rows, vocabulary]; ties: the
    first."""
    if logits.device.type == "cpu":  # numpy takes a sixth of the time
        return torch.from_numpy(logits.numpy().argmax(-1))
    return logits.argmax(-1)


def draw(logits: torch.Tensor, rows: SampledRows) -> torch.Tensor:
    """Tokens [rows] int64 for `logits` [rows, vocabulary]: the likeliest where the
    temperature is 0, else drawn by inverting the cumulative distribution."""
    assert rows.lengths_on_host is not None
    tokens, is_random = likeliest(logits), rows.setting_on_host("temperature") > 0
    is_filtered = (
        (rows.setting_on_host("top_k") > 0)
        | (rows.setting_on_host("top_p") < 1.0)
        | (rows.setting_on_host("min_p") > 0.0)
    )
    numbers = uniforms(rows.setting_on_host("seed"), rows.lengths_on_host)
    uniform = to_device(numbers, rows.device)
    for chosen, draw_from in (
        (is_random & ~is_filtered, _draw_from_all),
        (is_random & is_filtered, _draw_from_likeliest),
    ):
        if chosen.any():
            index = rows.indices(chosen)
            scaled = logits[index] / rows.setting("temperature")[index][:, None]
            tokens = tokens.index_copy(0, index, draw_from(scaled, uniform[index], index, rows))
    return tokens


def _draw_from_all(
    scaled: torch.Tensor, uniform: torch.Tensor, index: torch.Tensor, rows: SampledRows
) -> torch.Tensor:
    return _invert(scaled.softmax(-1), uniform)


def _draw_from_likeliest(
    scaled: torch.Tensor, uniform: torch.Tensor, index: torch.Tensor, rows: SampledRows
) -> torch.Tensor:
    """After top-k, top-p and min-p of the rows at `index`, in this order."""
    ordered, ids = scaled.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(scaled.shape[1], device=rows.device)[None]
    top_k = rows.setting("top_k")[index][:, None]
    ordered = ordered.masked_fill((top_k > 0) & (rank >= top_k), MINUS_INF)
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    # `before` keeps the token that crosses the threshold.
    dropped = before >= rows.setting("top_p")[index][:, None]
    dropped |= probabilities < rows.setting("min_p")[index][:, None] * probabilities[:, :1]
    dropped[:, 0] = False
    chosen = _invert(probabilities.masked_fill(dropped, 0.0), uniform)
    return ids.gather(1, chosen[:, None])[:, 0]


def _invert(weights: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Indices [rows] at which the cumulative `weights` [rows, n] pass `uniform` [rows]
    times their sum."""
    cumulative = weights.double().cumsum(-1)
    target = uniform[:, None] * cumulative[:, -1:]
    index = torch.searchsorted(cumulative, target, right=True)[:, 0]
    # Rounding must not choose a token behind the last one that is possible.
    positions = torch.arange(weights.shape[1], device=weights.device)
    last = (weights > 0).long().mul(positions).amax(-1)
    return torch.minimum(index, last)


def uniforms(seeds: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Numbers [n] in [0, 1), a function of seed [n] and position [n] alone: the
    finalizer of SplitMix64 (Steele et al. 2014) over a counter."""
    with np.errstate(over="ignore"):
        x = seeds.astype(np.uint64) * np.uint64(0xD1342543DE82EF95) + (
            positions.astype(np.uint64) + np.uint64(1)
        ) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return (x >> np.uint64(11)).astype(np.float64) / 2.0**53
