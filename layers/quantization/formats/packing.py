"""Numbers of four or eight bits in words of 32, the first in the lowest bits."""

import torch

from antiphon.layers.quantization.quantized_weight import FOUR_BIT_ZERO
from antiphon.layers.shard import Span

WORD = 32


def word_span(span: Span, bits: int) -> Span:
    """The words that hold `span`, packed from number 0 on."""
    by_word = WORD // bits
    first, end = span.first // by_word, -(-span.end // by_word)
    return Span(first, end - first, -(-span.total // by_word))


def unpacked(words: torch.Tensor, span: Span, bits: int) -> torch.Tensor:
    """[rows, words of `word_span`] int32 -> [rows, numbers of `span`] uint8"""
    as_bytes = words.contiguous().view(torch.uint8)
    if bits == 4:
        as_bytes = torch.stack((as_bytes & 15, as_bytes >> 4), dim=-1).flatten(1)
    before = span.first % (WORD // bits)
    return as_bytes[:, before : before + span.count]


def in_halves(codes: torch.Tensor) -> torch.Tensor:
    """[rows, columns] uint8 of four bits -> [rows, columns / 2], as `QuantizedWeight` has them."""
    first, second = codes.unflatten(1, (-1, 2)).unbind(-1)
    return first | second << 4


def four_bits(
    codes: torch.Tensor, zeros: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`values` and `zeros` of a `QuantizedWeight` of these codes [rows, columns] uint8. Two are
    one byte, but for an odd number of columns."""
    if codes.shape[1] % 2 == 0:
        return in_halves(codes), zeros
    signed = (codes.to(torch.int16) - FOUR_BIT_ZERO).to(torch.int8)
    return signed, None if zeros is None else zeros.to(torch.int16) - FOUR_BIT_ZERO


def signed_bytes(codes: torch.Tensor) -> torch.Tensor:
    """uint8 codes of which 128 is 0 -> int8"""
    return (codes ^ 128).view(torch.int8)
