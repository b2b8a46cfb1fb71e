"""Rules about what was written already: penalties, repeated n-grams, bad words. They
run outside graphs, for the rows that ask.

Each takes logits [rows, vocabulary] float32 and returns new ones.
"""

from collections.abc import Iterable

import numpy as np
import torch

from antiphon.decoder.sampling.rows import SampledRows
from antiphon.runtime.device import to_device

MINUS_INF = float("-inf")


def penalize(logits: torch.Tensor, rows: SampledRows) -> torch.Tensor:
    """Repetition penalty (Keskar et al. 2019) over prompt and output; presence and
    frequency penalties over the output alone."""
    asking = rows.indices(
        (rows.setting_on_host("repetition_penalty") != 1.0)
        | (rows.setting_on_host("presence_penalty") != 0.0)
        | (rows.setting_on_host("frequency_penalty") != 0.0)
    )
    repetition, presence, frequency = (
        rows.setting(f"{name}_penalty")[asking][:, None]
        for name in ("repetition", "presence", "frequency")
    )
    history, lengths = rows.history(asking)
    position = torch.arange(history.shape[1], device=rows.device)[None]
    is_written = position < lengths[:, None]
    history, is_written = _of_vocabulary(history, is_written, logits)
    is_output = is_written & (position >= rows.setting("prompt_len")[asking][:, None])
    zeros = torch.zeros(len(asking), logits.shape[1], device=rows.device)
    seen = zeros.scatter_add(1, history, is_written.float()) > 0
    count = zeros.scatter_add(1, history, is_output.float())
    own = logits[asking]
    own = torch.where(seen, torch.where(own > 0, own / repetition, own * repetition), own)
    own = own - count * frequency - (count > 0) * presence
    return logits.index_copy(0, asking, own)


def forbid_repeated_ngrams(logits: torch.Tensor, rows: SampledRows) -> torch.Tensor:
    """Bars tokens that would complete an n-gram once more (Paulus et al. 2017)."""
    sizes = rows.setting_on_host("no_repeat_ngram")
    assert rows.lengths_on_host is not None
    for size in np.unique(sizes[sizes > 0]).tolist():
        asking = rows.indices((sizes == size) & (rows.lengths_on_host >= size))
        if not len(asking):
            continue
        history, lengths = rows.history(asking)
        ngrams = history.unfold(1, size, 1)  # [asking, starts, size]
        tail = _last_tokens(history, lengths, size - 1)
        begins_alike = (ngrams[..., :-1] == tail[:, None]).all(-1)
        start = torch.arange(ngrams.shape[1], device=rows.device)[None]
        is_written = start + size <= lengths[:, None]
        logits = _bar(logits, asking, ngrams[..., -1], begins_alike & is_written)
    return logits


def forbid_bad_words(logits: torch.Tensor, rows: SampledRows) -> torch.Tensor:
    """Bars the last token of each bad word where the tokens so far, prompt included,
    end with those before it."""
    assert rows.slots_on_host is not None
    assert rows.lengths_on_host is not None
    lists = [rows.state.bad_words[slot] for slot in rows.slots_on_host.tolist()]
    for words in set(lists):
        has_words = np.array([of_slot == words for of_slot in lists])
        for size, table in _by_size(words):
            asking = rows.indices(has_words & (rows.lengths_on_host >= size - 1))
            if not len(asking):
                continue
            words_on_device = to_device(table, rows.device)  # [words, size]
            tail = _last_tokens(*rows.history(asking), size - 1)
            begun = (tail[:, None] == words_on_device[None, :, :-1]).all(-1)  # [asking, words]
            last = words_on_device[None, :, -1].expand(len(asking), -1)
            logits = _bar(logits, asking, last, begun)
    return logits


def _by_size(words: Iterable[tuple[int, ...]]) -> list[tuple[int, np.ndarray]]:
    """Words [words, size] of each size."""
    return [
        (size, np.array([word for word in words if len(word) == size]))
        for size in {len(word) for word in words}
    ]


def _last_tokens(history: torch.Tensor, lengths: torch.Tensor, count: int) -> torch.Tensor:
    """The last `count` of each row's `lengths` [rows] tokens: [rows, count]."""
    position = torch.arange(count, device=history.device) + (lengths - count)[:, None]
    return history.gather(1, position.long())


def _bar(
    logits: torch.Tensor, asking: torch.Tensor, tokens: torch.Tensor, holds: torch.Tensor
) -> torch.Tensor:
    """Bars in rows `asking` [n] those of `tokens` [n, m] for which `holds` [n, m]."""
    tokens, holds = _of_vocabulary(tokens, holds, logits)
    barred = torch.zeros(len(asking), logits.shape[1], device=logits.device)
    barred.scatter_add_(1, tokens, holds.float())
    return logits.index_copy(0, asking, logits[asking].masked_fill(barred > 0, MINUS_INF))


def _of_vocabulary(
    tokens: torch.Tensor, holds: torch.Tensor, logits: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both [n, m], without the tokens of a prompt that have no logits: that of an image
    may be behind the vocabulary."""
    last = logits.shape[1] - 1
    return tokens.clamp(max=last), holds & (tokens <= last)
