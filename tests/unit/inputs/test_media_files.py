"""Recordings and videos as FFmpeg opens them. Files that name others are neither."""

import io
import shutil
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from paths import RECORDINGS

from antiphon.cli.preflight import probe
from antiphon.cli.recordings import Recording
from antiphon.compat.faster_whisper.audio import decode_audio
from antiphon.config.errors import AudioError, VideoError
from antiphon.inputs.audio.forms import load_audio
from antiphon.inputs.images.videos import FrameSampling, read_video
from antiphon.serve.uploads import Upload

RATE = 16_000
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n"
HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{}\n#EXT-X-ENDLIST\n"
CONCAT = "ffconcat version 1.0\nfile {}\n"


class Asked(BaseHTTPRequestHandler):
    paths: list[str]

    def do_GET(self) -> None:
        self.paths.append(self.path)
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    """A server's address, and the paths that it was asked for."""
    monkeypatch.setattr(Asked, "paths", [], raising=False)
    with HTTPServer(("127.0.0.1", 0), Asked) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", Asked.paths
        server.shutdown()


@pytest.mark.parametrize("form", [CONCAT, HLS, SDP], ids=["concat", "hls", "sdp"])
@pytest.mark.parametrize("target", ["local.wav", "{folder}/local.wav", "{address}/a.wav"])
def test_what_names_other_files_reads_none(
    form: str,
    target: str,
    asked: tuple[str, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A file of the working directory, too. Nothing waits for a sender that there is not."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(RECORDINGS / "call.wav", "local.wav")
    content = form.format(target.format(folder=tmp_path, address=asked[0])).encode()
    path = tmp_path / "list.mp4"
    path.write_bytes(content)
    began = time.monotonic()
    for sound in (content, io.BytesIO(content), path, str(path)):
        with pytest.raises(AudioError, match="not readable as audio"):
            load_audio(sound, RATE)
    for video in (content, io.BytesIO(content), path, str(path)):
        with pytest.raises(VideoError, match="not readable as a video"):
            read_video(video, FrameSampling())
    with pytest.raises(AudioError):
        decode_audio(io.BytesIO(content), RATE, split_stereo=True)
    assert not probe([Recording(str(path), path)])[0]
    Upload(io.BytesIO(content), len(content), RATE).check_length(1.0)
    assert time.monotonic() - began < 5
    assert asked[1] == []


def test_a_playlist_is_told_as_such() -> None:
    with pytest.raises(AudioError, match="playlists of other files are not read"):
        load_audio(CONCAT.format("local.wav").encode(), RATE)


def test_names_with_colons_are_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(RECORDINGS / "call.wav", "http:call.wav")
    expected = load_audio((RECORDINGS / "call.wav").read_bytes(), RATE)
    np.testing.assert_array_equal(load_audio("http:call.wav", RATE), expected)


def test_titles_that_are_not_utf8_do_not_matter() -> None:
    plain = (RECORDINGS / "call.wav").read_bytes()
    title = b"INFO" + b"INAM" + (4).to_bytes(4, "little") + b"\xff\xfe\xe4\x00"
    listed = plain + b"LIST" + len(title).to_bytes(4, "little") + title
    file = listed[:4] + (len(listed) - 8).to_bytes(4, "little") + listed[8:]
    np.testing.assert_array_equal(load_audio(file, RATE), load_audio(plain, RATE))


def test_pyav_19_is_asked_for_no_option_that_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    import av  # which a GPU machine may lack

    opened = av.open

    def without_metadata_errors(file: object, *, container_options: dict[str, str]) -> object:
        return opened(file, container_options=container_options)

    monkeypatch.setattr(av, "__version__", "19.0.2")
    monkeypatch.setattr(av, "open", without_metadata_errors)
    assert len(load_audio(RECORDINGS / "call.wav", RATE)) > RATE
