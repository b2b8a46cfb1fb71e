"""Word error rate, as speech recognition counts it."""


def edit_distance(left: list[str], right: list[str]) -> int:
    """Fewest insertions, deletions and substitutions that turn `left` into `right` (Levenshtein 1966)."""
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


def word_error_rate(heard: list[str], expected: list[str]) -> float:
    """Errors per expected word over all pairs of sentences."""
    errors = sum(edit_distance(h.split(), e.split()) for h, e in zip(heard, expected, strict=True))
    return errors / sum(len(e.split()) for e in expected)
