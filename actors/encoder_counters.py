"""What an encoder worker counts: once for each batch."""

from collections import Counter


class EncoderCounters:
    """`values`: sums since the start, in names that no decoder's counter has."""

    def __init__(self) -> None:
        self.values: Counter[str] = Counter()
        self._free_at = 0.0  # when the device had done the batch before

    def add_batch(self, num_inputs: int, num_tokens: int, began: float, now: float) -> None:
        """A batch that was queued at `began` and is done `now`: seconds of one clock. What it
        waited for the batch before it does not count as its own time."""
        self.values["encoder_batches"] += 1
        self.values[f"encoder_batches_of_{size_class(num_inputs)}"] += 1
        self.values["encoder_inputs"] += num_inputs
        self.values["encoder_input_tokens"] += num_tokens
        self.values["encoder_busy_us"] += round(1e6 * (now - max(began, self._free_at)))
        self._free_at = now


def size_class(num_inputs: int) -> int:
    """The power of two from `num_inputs` up: a batch of 5 is one of up to 8."""
    return int(1 << (num_inputs - 1).bit_length())
