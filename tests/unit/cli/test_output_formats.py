"""What `antiphon transcribe` reads and writes, with an engine that says what it is told."""

import json
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest
from paths import RECORDINGS, WHISPER
from typer.testing import CliRunner, Result

from antiphon.cli import preflight
from antiphon.cli.app import app
from antiphon.cli.recordings import Recording, expand
from antiphon.config.errors import AntiphonError, AudioError, ConfigurationError
from antiphon.engine import sync_engine as engine_module
from antiphon.engine.output_formats import WRITERS, parse_formats, write_atomically
from antiphon.engine.outputs import Segment, Transcription
from antiphon.inputs.audio.sound import Skipped

SEGMENTS = [
    Segment(0.0, 2.5, " wake me up "),
    Segment(59.9996, 61.25, "a --> b\n\nand\tmore"),
    Segment(3661.007, 3662.0, "Straße"),
]
RESULT = Transcription("wake me up", "en", SEGMENTS, 3700.0)
SOUND = RECORDINGS / "call.wav"
MODEL = WHISPER


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("txt", "wake me up\na --> b\n\nand\tmore\nStraße\n"),
        (
            "srt",
            "1\n00:00:00,000 --> 00:00:02,500\nwake me up\n\n"
            "2\n00:01:00,000 --> 00:01:01,250\na -> b\nand\tmore\n\n"
            "3\n01:01:01,007 --> 01:01:02,000\nStraße\n\n",
        ),
        (
            "vtt",
            "WEBVTT\n\n00:00.000 --> 00:02.500\nwake me up\n\n"
            "01:00.000 --> 01:01.250\na -> b\nand\tmore\n\n"
            "01:01:01.007 --> 01:01:02.000\nStraße\n\n",
        ),
        (
            "tsv",
            "start\tend\ttext\n0\t2500\twake me up\n"
            "60000\t61250\ta --> b and more\n3661007\t3662000\tStraße\n",
        ),
    ],
)
def test_formats(name: str, expected: str) -> None:
    assert WRITERS[name](RESULT, None) == expected


def test_json_holds_everything() -> None:
    content = json.loads(WRITERS["json"](RESULT, None))
    assert (content["language"], content["duration"]) == ("en", 3700.0)
    assert (
        content["segments"][2].items()
        >= {"start": 3661.007, "end": 3662.0, "text": "Straße"}.items()
    )


@pytest.mark.parametrize("name", list(WRITERS))
def test_silence_is_written_too(name: str) -> None:
    empty = {"txt": "", "srt": "", "vtt": "WEBVTT\n\n", "tsv": "start\tend\ttext\n"}
    written = WRITERS[name](Transcription("", None, [], 4.0), None)
    assert written == empty.get(name, written)
    if name == "json":
        assert json.loads(written)["segments"] == []


def test_format_names() -> None:
    assert parse_formats("srt, .VTT,srt") == ["srt", "vtt"]
    assert parse_formats("all") == ["txt", "srt", "vtt", "tsv", "json"]
    for wrong, message in (
        ("str", "Valid names: all, json, srt"),
        ("", "give an output format"),
        ("docx,txt", "'docx'"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            parse_formats(wrong)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "call.txt"
    write_atomically(path, "erst")
    write_atomically(path, "zweitens: ß")
    assert path.read_text(encoding="utf-8") == "zweitens: ß"
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "half \ud800")
    assert path.read_text(encoding="utf-8") == "zweitens: ß"
    assert [item.name for item in path.parent.iterdir()] == ["call.txt"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask(tmp_path)


def _umask(folder: Path) -> int:
    probe = folder / "probe"
    probe.touch(mode=0o666)
    return 0o666 & ~probe.stat().st_mode


@pytest.fixture
def sounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """a.wav, b.MP3, notes.txt, deep/a.wav, deep/c.opus; the working directory."""
    (tmp_path / "deep").mkdir()
    for name in ("a.wav", "b.MP3", "notes.txt", "deep/a.wav", "deep/c.opus"):
        (tmp_path / name).write_bytes(SOUND.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "recursive", "names", "stems"),
    [
        (["a.wav"], False, ["a.wav"], ["a"]),
        (["notes.txt"], False, ["notes.txt"], ["notes"]),
        (["."], False, ["a.wav", "b.MP3"], ["a", "b"]),
        (
            ["."],
            True,
            ["a.wav", "b.MP3", "deep/a.wav", "deep/c.opus"],
            ["a", "b", "deep/a", "deep/c"],
        ),
        (["deep", "a.wav"], False, ["deep/a.wav", "deep/c.opus", "a.wav"], ["a", "c", "a"]),
        (["*.wav"], False, ["a.wav"], ["a"]),
        (["**/*.wav"], False, ["a.wav", "deep/a.wav"], ["a", "a"]),
        (["a.wav", "./a.wav", "a.*"], False, ["a.wav"], ["a"]),
        (["@list"], False, ["b.MP3", "deep/c.opus"], ["b", "c"]),
        (["-", "a.wav"], False, ["-", "a.wav"], ["stdin", "a"]),
    ],
)
def test_what_was_typed_becomes_recordings(
    sounds: Path, arguments: list[str], recursive: bool, names: list[str], stems: list[str]
) -> None:
    (sounds / "list").write_text("b.MP3\n\n  deep/c.opus\n")
    recordings, errors = expand(arguments, recursive)
    assert errors == []
    assert [item.name for item in recordings] == names
    assert [str(item.stem) for item in recordings] == stems


def test_arguments_that_are_no_recordings(sounds: Path) -> None:
    (sounds / "empty").mkdir()
    (sounds / "nothing.wav").touch()
    arguments = [
        "empty",
        "nothing.wav",
        "gone.wav",
        "http://x/a.wav",
        "*.flac",
        "@gone",
        "",
        "a.wav",
    ]
    recordings, errors = expand(arguments, recursive=False)
    assert [item.name for item in recordings] == ["a.wav"]
    assert [str(error) for error in errors] == [
        "empty: this folder holds no sound files; --recursive looks into its folders too",
        "nothing.wav: the file is empty",
        "gone.wav: no such file",
        "http://x/a.wav: URLs are not read: download it first, then give the file",
        "*.flac: no file matches this pattern",
        "@gone: cannot read the list of files ([Errno 2] No such file or directory: 'gone')",
        "an empty text is no name of a recording",
    ]


def test_a_file_that_is_no_recording_is_named_once(sounds: Path) -> None:
    """However it was typed, also in a folder; and the others of its folder or pattern are kept."""
    (sounds / "deep" / "a.wav").write_bytes(b"")
    for arguments in (["deep"], ["deep/a.wav", "deep", "deep/*"], ["deep/*", "./deep/a.wav"]):
        recordings, errors = expand(arguments, recursive=False)
        assert [item.name for item in recordings] == ["deep/c.opus"]
        assert [str(error) for error in errors] == ["deep/a.wav: the file is empty"]


def test_a_list_may_begin_with_a_byte_order_mark(sounds: Path) -> None:
    (sounds / "list").write_text("b.MP3\na.wav\n", encoding="utf-8-sig")
    recordings, errors = expand(["@list"], recursive=False)
    assert ([item.name for item in recordings], errors) == (["b.MP3", "a.wav"], [])


def test_names_that_look_like_something_else(sounds: Path) -> None:
    for name in ("[1].wav", "@home.wav", "a?.wav"):
        (sounds / name).write_bytes(SOUND.read_bytes())
        recordings, errors = expand([name], recursive=False)
        assert ([item.name for item in recordings], errors) == ([name], [])


def test_files_without_sound_are_found_before_the_engine(sounds: Path) -> None:
    (sounds / "text.wav").write_text("no sound here, only words " * 50)
    usable, errors = preflight.probe(
        [Recording("a.wav", Path("a")), Recording("text.wav", Path("text"))]
    )
    assert [item.name for item in usable] == ["a.wav"]
    assert [str(error) for error in errors] == [
        "text.wav: not readable as audio (Invalid data found when processing input)"
    ]


class SayingEngine:
    """Says each recording's name, the last one first; what is called broken fails."""

    options: ClassVar[dict[str, Any]] = {}
    started: ClassVar[int] = 0

    def __init__(self, model: str, **options: Any) -> None:
        type(self).started += 1
        type(self).options = {"model": model, **options}

    def transcribe_as_completed(
        self, recordings: Iterable[Any], **options: Any
    ) -> Iterator[tuple[int, Transcription | AntiphonError]]:
        type(self).options |= options
        for index, source in reversed(list(enumerate(recordings))):
            name = "bytes" if isinstance(source, bytes) else source.stem
            if name == "broken":
                yield index, AudioError("no frame could be decoded")
            else:
                skipped = [Skipped(0.0, 0.5, "digital silence")]
                skipped += (
                    [Skipped(1.0, 1.5, "undecodable"), Skipped(2.0, 2.25, "missing")]
                    if name == "damaged"
                    else []
                )
                yield (
                    index,
                    Transcription(name, "en", [Segment(0.0, 1.0, name)], 4.0, skipped=skipped),
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def saying(monkeypatch: pytest.MonkeyPatch) -> type[SayingEngine]:
    SayingEngine.started = 0
    monkeypatch.setattr(engine_module, "Engine", SayingEngine)
    return SayingEngine


def transcribe(*arguments: str, stdin: bytes = b"") -> Result:
    return CliRunner().invoke(app, ["transcribe", *arguments, "-m", str(MODEL), "-q"], input=stdin)


def test_results_in_the_order_they_are_made(sounds: Path, saying: type[SayingEngine]) -> None:
    done = transcribe(
        "a.wav",
        "b.MP3",
        "--language",
        "en",
        "--no-timestamps",
        "--max-num-seqs",
        "3",
        "-o",
        "dtype=float32",
    )
    assert (done.exit_code, done.stdout) == (0, "b.MP3: b\na.wav: a\n")
    assert saying.options["model"] == str(MODEL)
    assert (saying.options["max_num_seqs"], saying.options["dtype"]) == (3, "float32")
    assert (saying.options["language"], saying.options["timestamps"]) == ("en", False)
    assert transcribe("a.wav").stdout == "a\n"
    lines = [
        json.loads(line) for line in transcribe("a.wav", "b.MP3", "--json").stdout.splitlines()
    ]
    assert [(line["file"], line["text"]) for line in lines] == [("b.MP3", "b"), ("a.wav", "a")]


def test_one_subtitle_to_standard_output(sounds: Path, saying: type[SayingEngine]) -> None:
    assert transcribe("a.wav", "-f", "srt").stdout == "1\n00:00:00,000 --> 00:00:01,000\na\n"
    refused = transcribe("a.wav", "b.MP3", "-f", "srt")
    assert "needs --output-dir" in str(refused.exception)
    assert saying.started == 1


def test_standard_input(sounds: Path, saying: type[SayingEngine]) -> None:
    assert transcribe("-", stdin=SOUND.read_bytes()).stdout == "bytes\n"


def test_failures_stand_among_the_others(sounds: Path, saying: type[SayingEngine]) -> None:
    (sounds / "broken.wav").write_bytes(SOUND.read_bytes())
    done = transcribe("gone.wav", "broken.wav", "a.wav")
    assert (done.exit_code, done.stdout) == (1, "broken.wav: a\n".replace("broken.wav", "a.wav"))
    assert done.stderr.splitlines() == [
        "antiphon: gone.wav: no such file",
        "antiphon: broken.wav: no frame could be decoded",
    ]
    nothing_left = transcribe("gone.wav")
    assert (nothing_left.exit_code, saying.started) == (1, 1)


def test_what_could_not_be_read_is_said(sounds: Path, saying: type[SayingEngine]) -> None:
    (sounds / "damaged.wav").write_bytes(SOUND.read_bytes())
    done = transcribe("damaged.wav", "a.wav")
    assert (done.exit_code, done.stdout) == (0, "a.wav: a\ndamaged.wav: damaged\n")
    assert (
        done.stderr == "damaged.wav: 0.8 of 4.0 s could not be read (undecodable from 1.0 s on)\n"
    )


def test_an_output_folder(sounds: Path, saying: type[SayingEngine]) -> None:
    done = transcribe(".", "-r", "--output-dir", "out")
    assert (done.exit_code, done.stdout) == (0, "")
    written = sorted(
        str(path.relative_to("out")) for path in Path("out").rglob("*") if path.is_file()
    )
    assert written == sorted(
        f"{stem}.{name}" for stem in ("a", "b", "deep/a", "deep/c") for name in WRITERS
    )
    assert Path("out/deep/c.txt").read_text() == "c\n"
    assert json.loads(Path("out/deep/a.json").read_text())["text"] == "a"


def test_a_file_that_cannot_be_written(sounds: Path, saying: type[SayingEngine]) -> None:
    Path("out/a.txt").mkdir(parents=True)  # a folder stands in its way
    done = transcribe("a.wav", "b.MP3", "--output-dir", "out", "-f", "txt")
    assert (done.exit_code, Path("out/b.txt").read_text()) == (1, "b\n")
    assert done.stderr == "antiphon: a.wav: out/a.txt: Is a directory\n"


def test_a_pipe(sounds: Path, saying: type[SayingEngine]) -> None:
    os.mkfifo("pipe")
    writer = threading.Thread(target=Path("pipe").write_bytes, args=(SOUND.read_bytes(),))
    writer.start()
    assert transcribe("pipe").stdout == "bytes\n"
    writer.join()


def test_what_exists_is_skipped(sounds: Path, saying: type[SayingEngine]) -> None:
    arguments = (".", "--output-dir", "out", "-f", "txt,srt", "--skip-existing")
    Path("out").mkdir()
    for name in ("a.txt", "a.srt", "b.txt"):  # b.srt is missing
        Path("out", name).write_text("before")
    assert transcribe(*arguments).exit_code == 0
    assert Path("out/a.txt").read_text() == "before"
    assert Path("out/b.txt").read_text() == "b\n"
    assert saying.started == 1
    assert transcribe(*arguments).exit_code == 0
    assert saying.started == 1, "nothing was left to do"


def test_two_recordings_of_one_name(sounds: Path, saying: type[SayingEngine]) -> None:
    done = transcribe("a.wav", "deep/a.wav", "--output-dir", "out")
    assert isinstance(done.exception, ConfigurationError)
    assert str(done.exception).startswith("a.wav and deep/a.wav would both be written to out/a.txt")
    assert saying.started == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--language", "xx"], "unknown language 'xx'"),
        (["--task", "summarise"], "unknown task 'summarise'"),
        (
            ["--chunk-seconds", "90"],
            "chunk_seconds must be between 1 and the model's window of 8, not 90",
        ),
        (["--encoder-attention-backend", "flush"], "unknown attention backend 'flush'"),
        (["--device", "cuda", "--no-ray"], "torch sees no CUDA device here"),
        (
            ["--decoder-attention-backend", "flex", "--no-ray"],
            "decoder_attention_backend='flex' cannot be used",
        ),
        (["-s", "allowed_token_ids=[99999999]"], "allowed_token_ids has token id 99999999"),
        (["--max-model-len", "99999"], "max_model_len=99999 is more than"),
    ],
)
def test_what_the_model_cannot_do(
    sounds: Path, saying: type[SayingEngine], arguments: list[str], message: str
) -> None:
    import torch

    if torch.cuda.is_available() and "--device" in arguments:
        pytest.skip("there is a CUDA device")
    done = transcribe("a.wav", *arguments)
    assert isinstance(done.exception, AntiphonError)
    assert message in str(done.exception)
    assert saying.started == 0


def test_each_kind_of_model_has_its_command(
    t5_folder: Path, whisper_folder: Path, saying: type[SayingEngine]
) -> None:
    wrong = CliRunner().invoke(app, ["transcribe", str(SOUND), "-m", str(t5_folder), "-q"])
    assert "reads text: use `antiphon generate`" in str(wrong.exception)
    wrong = CliRunner().invoke(app, ["generate", "x", "-m", str(whisper_folder), "-q"])
    assert "listens: use `antiphon transcribe`" in str(wrong.exception)
    wrong = CliRunner().invoke(
        app, ["generate", "x", "-m", str(t5_folder), "-q", "--target-language", "fr"]
    )
    assert "knows no languages: leave out target_language" in str(wrong.exception)
    assert saying.started == 0
