"""A bar of the seconds that are done."""

from collections.abc import Iterator
from contextlib import contextmanager

from antiphon.inputs.calls.transcription import Progress


@contextmanager
def shown_progress(wanted: bool, seconds: float) -> Iterator[Progress | None]:
    """What the engine reports its progress to, on a bar; None unless `wanted`."""
    if not wanted:
        yield None
        return
    from tqdm import tqdm

    with tqdm(total=round(seconds, 2), unit="seconds") as bar:

        def show(done: float, in_all: float) -> None:
            bar.update(round(done, 2) - bar.n)

        yield show
