"""The sizes that batches are padded to, so that few graphs hold all of them."""

# Tokens of the largest graph: the device takes longer for more than the host needs to launch it.
MAX_GRAPH_TOKENS = 8192


def graph_sizes(most: int, unit: int) -> list[int]:
    """Up to `most`, the smallest first. Padding adds an eighth, or `unit`; all but the last are its
    multiples."""
    sizes = [unit]
    while sizes[-1] < most:
        sizes.append(sizes[-1] + max(unit, sizes[-1] // 8 // unit * unit))
    return [min(size, most) for size in sizes]
