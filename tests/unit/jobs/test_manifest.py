"""Lines of manifests: blank, torn, too long, packed, from anywhere."""

import gzip
import io
import sys
from pathlib import Path

import fsspec
import pytest

from antiphon.config.errors import ConfigurationError
from antiphon.jobs import manifest as module
from antiphon.jobs.line_set import LineSet
from antiphon.jobs.manifest import Line, Manifest

CONTENT = b'\xef\xbb\xbf{"text": "a"}\r\n\n   \n{"text": "b"}\n{"text": "c"}'
LINES = [Line(1, b'{"text": "a"}\r'), Line(4, b'{"text": "b"}'), Line(5, b'{"text": "c"}')]


def all_of(manifest: Manifest) -> list[Line]:
    return list(manifest.lines(LineSet()))


@pytest.mark.parametrize("block", [1, 2, 7, 1 << 20])
def test_lines_are_numbered_as_in_an_editor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(module, "BLOCK_BYTES", max(3, block))
    path = tmp_path / "m.jsonl"
    path.write_bytes(CONTENT)
    assert all_of(Manifest(str(path))) == LINES
    assert Manifest(str(path)).survey().lines == 3
    assert Manifest(str(path)).survey().bytes == len(CONTENT)


def test_lines_that_are_done_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(CONTENT)
    done = LineSet()
    done.add(4)
    assert list(Manifest(str(path)).lines(done)) == [LINES[0], LINES[2]]


def test_a_line_without_end_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_LINE_BYTES", 20)
    monkeypatch.setattr(module, "BLOCK_BYTES", 8)
    path = tmp_path / "m.jsonl"
    path.write_bytes(b"{}\n" + b"x" * 1000 + b"\n" + b"y" * 21 + b"\n{}\n" + b"z" * 50)
    assert all_of(Manifest(str(path))) == [
        Line(1, b"{}"),
        Line(2, None),
        Line(3, None),
        Line(4, b"{}"),
        Line(5, None),
    ]


def test_packed_and_remote_manifests(tmp_path: Path) -> None:
    packed = tmp_path / "m.jsonl.gz"
    packed.write_bytes(gzip.compress(CONTENT))
    assert all_of(Manifest(str(packed))) == LINES
    with fsspec.open("memory://manifests/m.jsonl", "wb") as file:
        file.write(CONTENT)
    remote = Manifest("memory://manifests/m.jsonl")
    assert all_of(remote) == LINES
    assert remote.survey() == Manifest(str(packed)).survey()
    assert remote.folder == "memory://manifests/"


def test_standard_input_is_read_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(CONTENT)))
    with Manifest("-") as manifest:
        assert manifest.survey().lines == 3
        assert all_of(manifest) == LINES
        assert manifest.folder == "."


@pytest.mark.parametrize("name", ["/no/such.jsonl", "memory://no/such.jsonl", "what://x"])
def test_a_manifest_that_cannot_be_read(name: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot read the manifest"):
        Manifest(name).survey()


def test_a_set_of_lines() -> None:
    lines = LineSet()
    for number in (0, 7, 8, 1_000_000, 7):
        lines.add(number)
    assert len(lines) == 4
    assert all(number in lines for number in (0, 7, 8, 1_000_000))
    assert not any(number in lines for number in (1, 6, 9, 999_999, 5_000_000))
