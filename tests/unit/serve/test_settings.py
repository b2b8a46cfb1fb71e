"""What a server's operator may choose, and keys."""

import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from antiphon.config.errors import ConfigurationError
from antiphon.serve.command import Plan
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
    file.write_text("first\nsecond\n", encoding="utf-8-sig")
    assert read_keys(file) == ("first", "second")
    file.write_text("# none\n")
    with pytest.raises(ConfigurationError, match="no API key"):
        read_keys(file)
    with pytest.raises(ConfigurationError, match="cannot read"):
        read_keys(tmp_path / "missing")


WRONG: list[Any] = [0, -1, math.nan, math.inf, -math.inf, True, "8", None, [1], 10**400, 1e300]


@pytest.mark.parametrize("name", [limit.name for limit in fields(Limits)])
@pytest.mark.parametrize("value", WRONG, ids=str)
def test_limits_are_numbers_above_zero(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"^{name} must be a (whole )?number above 0, not"):
        Limits(**{name: value})


def test_limits_that_are_too_large_are_told_what_is_allowed() -> None:
    with pytest.raises(ConfigurationError, match=r"upload_mib .* not inf \(at most 2147483647\)"):
        Limits(upload_mib=math.inf)
    assert Limits(upload_mib=2**31 - 1).upload_bytes > 0
    assert Limits(upload_mib=0.5).upload_bytes == 1 << 19


@pytest.mark.parametrize("port", [-1, 65536, 1.5, math.nan, True, "80", None])
def test_ports(port: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^port must be a whole number of 0 or more, not"):
        ServerSettings(port=port)


@pytest.mark.parametrize("replicas", [0, -1, 1.5, math.inf, True, "2", None, 2**31])
def test_replicas_of_frontends(replicas: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^replicas must be a whole number above 0, not"):
        Plan(ServerSettings(), {"m": "here"}, {}, replicas)


@pytest.mark.parametrize(
    "address", ["nonsense", "", "localhost:4318", "ftp://a", "http://", "http://a:b", "http:///v1"]
)
def test_addresses_of_collectors(address: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^otlp_traces_endpoint must be an address such"):
        ServerSettings(otlp_traces_endpoint=address)
    for right in ("http://localhost:4318/v1/traces", "https://[::1]/v1/traces"):
        assert ServerSettings(otlp_traces_endpoint=right).otlp_traces_endpoint == right


def test_lines_of_key_files(tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    file.write_text("  # of Ada\n first \n\t# of Bob\n")
    assert read_keys(file) == ("first",)
    file.write_text("first\n\na secret  # of Ada\n")
    with pytest.raises(ConfigurationError) as caught:
        read_keys(file)
    assert str(caught.value) == f"{file}, line 3: an API key must be printable ASCII without blanks"
