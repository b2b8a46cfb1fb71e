"""API keys: compared in constant time, and named by a hash where they are logged."""

import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path

from antiphon.config.errors import ConfigurationError
from antiphon.serve.errors import ApiError
from antiphon.serve.settings import check_key


class ApiKeys:
    """The keys that clients may send. Holds their digests alone."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key.encode()) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def name(self, authorization: bytes) -> str | None:
        """The key's name in logs, from an Authorization header; None if it is not valid."""
        scheme, _, key = authorization.partition(b" ")
        digest = _digest(key.strip())
        # All are compared, so that the time says nothing about which one is near.
        matches = [hmac.compare_digest(digest, own) for own in self._digests]
        return f"key-{digest.hex()[:8]}" if scheme.lower() == b"bearer" and any(matches) else None


def no_valid_key() -> ApiError:
    return ApiError(
        401, "no valid API key: send 'Authorization: Bearer KEY'", code="invalid_api_key"
    )


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def read_keys(path: Path) -> tuple[str, ...]:
    """One key a line; empty lines and those that begin with # are left out, blanks before and
    behind a line too.

    Raises ConfigurationError for a file that cannot be read or holds none, and for a line that is
    no key.
    """
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: cannot read the API keys: {error}") from None
    stripped = enumerate((line.strip() for line in lines), 1)
    keys = {number: line for number, line in stripped if line and not line.startswith("#")}
    for number, key in keys.items():
        check_key(key, f"{path}, line {number}: an API key")
    if not keys:
        raise ConfigurationError(f"{path} holds no API key")
    return tuple(keys.values())
