"""What a server's operator may choose, and keys."""

from pathlib import Path

import pytest

from antiphon.config.errors import ConfigurationError
from antiphon.serve.keys import ApiKeys, read_keys
from antiphon.serve.settings import Limits, ServerSettings, is_loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_loopback_needs_no_key(host: str) -> None:
    assert is_loopback(host)
    assert not ServerSettings(host=host).api_keys


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "asr.example.com"])
def test_other_addresses_need_a_key_or_a_word(host: str) -> None:
    with pytest.raises(ConfigurationError, match="--api-key"):
        ServerSettings(host=host)
    assert ServerSettings(host=host, insecure=True).host == host
    assert ServerSettings(host=host, api_keys=("secret",)).api_keys == ("secret",)


def test_settings_do_not_show_keys() -> None:
    assert "secret" not in repr(ServerSettings(api_keys=("secret",)))


@pytest.mark.parametrize("key", ["", "two words", "schlüssel", "tab\t"])
def test_keys_that_no_client_could_send(key: str) -> None:
    with pytest.raises(ConfigurationError, match="printable ASCII"):
        ServerSettings(api_keys=(key,))


def test_keys_are_named_by_their_hash() -> None:
    keys = ApiKeys(["first", "second"])
    name = keys.name(b"Bearer second")
    assert name is not None
    assert name.startswith("key-")
    assert "second" not in name
    assert name == keys.name(b"bearer  second ")
    assert keys.name(b"Bearer third") is keys.name(b"second") is keys.name(b"") is None
    assert not ApiKeys([])


def test_files_of_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# team a\nfirst\n\n second \n")
    assert read_keys(file) == ("first", "second")
    file.write_text("# none\n")
    with pytest.raises(ConfigurationError, match="no API key"):
        read_keys(file)
    with pytest.raises(ConfigurationError, match="cannot read"):
        read_keys(tmp_path / "missing")


def test_limits_are_above_zero() -> None:
    with pytest.raises(ConfigurationError, match="upload_mib must be above 0"):
        Limits(upload_mib=0)
