"""Feature extractors' settings: odd ones are read or refused by name."""

from pathlib import Path

import pytest

from antiphon.config.errors import CheckpointError
from antiphon.families.audio_config import AudioConfig


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "cannot read .*preprocessor_config.json"),
        ("{", "cannot read .*preprocessor_config.json"),
        (
            '{"hop_length": 0}',
            "hop_length of the feature extractor must be a whole number above 0, not 0",
        ),
        ('{"sampling_rate": "16k"}', "sampling_rate of the feature extractor"),
        ('{"feature_size": 128}', "makes 128 mel bins, the encoder takes 80"),
    ],
)
def test_odd_feature_settings(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        AudioConfig.load(tmp_path, 80, 400)


def test_feature_settings_that_leave_out_what_is_usual(tmp_path: Path) -> None:
    assert AudioConfig.load(tmp_path, 80, 1500) == AudioConfig()
    (tmp_path / "preprocessor_config.json").write_bytes(
        b'\xef\xbb\xbf{"hop_length": null, "n_fft": 400}'
    )
    assert AudioConfig.load(tmp_path, 80, 1500) == AudioConfig()
