"""What encoders count of their batches."""

import pytest

from antiphon.actors.encoder_counters import EncoderCounters, size_class


@pytest.mark.parametrize(("inputs", "size"), [(1, 1), (2, 2), (3, 4), (5, 8), (8, 8), (9, 16)])
def test_size_classes(inputs: int, size: int) -> None:
    assert size_class(inputs) == size


def test_time_spent_behind_another_batch_counts_once() -> None:
    counters = EncoderCounters()
    counters.add_batch(3, 4500, began=10.0, now=10.5)
    counters.add_batch(4, 6000, began=10.1, now=10.9)  # queued behind the first
    counters.add_batch(1, 1500, began=12.0, now=12.25)
    assert counters.values == {
        "encoder_batches": 3, "encoder_batches_of_4": 2, "encoder_batches_of_1": 1,
        "encoder_inputs": 8, "encoder_input_tokens": 12_000,
        "encoder_busy_us": 500_000 + 400_000 + 250_000,
    }  # fmt: skip
