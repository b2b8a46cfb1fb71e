"""Files in an object store appear whole or not at all."""

from typing import IO

import fsspec
import pytest

from antiphon.jobs.object_storage import ObjectFolder


@pytest.fixture
def folder() -> ObjectFolder:
    files = fsspec.filesystem("memory")
    return ObjectFolder("memory://whole", files, "/whole")


def test_a_write_that_fails_leaves_nothing(folder: ObjectFolder) -> None:
    def failing(file: IO[bytes]) -> None:
        file.write(b"half")
        raise OSError("no more of it")

    with pytest.raises(OSError, match="no more of it"):
        folder.write("parts/a.jsonl", failing)
    assert not folder.exists("parts/a.jsonl")


def test_a_write_that_fails_leaves_what_was_written_before(folder: ObjectFolder) -> None:
    def closing(file: IO[bytes]) -> None:
        file.write(b"whole")
        file.close()  # as writers of tables do

    def failing(file: IO[bytes]) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    folder.write("b.jsonl", closing)
    with pytest.raises(KeyboardInterrupt):
        folder.write("b.jsonl", failing)
    with folder.open("b.jsonl") as file:
        assert file.read() == b"whole"
