"""What the host does for a step: the same for sequences of any length, and no loop over them."""

from antiphon.benchmarks.host_work import HostWork


def best(sequences: int, length: int) -> float:
    """The least sum of medians of a few runs: other processes only add to it."""
    return min(sum(HostWork(sequences, length).microseconds(40).values()) for _ in range(3))


def test_it_is_flat_in_the_length_of_sequences() -> None:
    assert best(128, 3000) < 1.6 * best(128, 8)


def test_it_has_no_loop_over_rows() -> None:
    """Such a loop costs half a microsecond for each row and each thing that it does at least."""
    assert best(256, 8) < 5 * best(16, 8)
