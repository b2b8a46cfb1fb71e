"""What all tests on a CUDA device share."""

from collections.abc import Iterator

import pytest
from precision import full_precision


@pytest.fixture(autouse=True)
def precision() -> Iterator[None]:
    """Results are compared with a CPU's, and with each other."""
    with full_precision():
        yield
