"""From the address of an output folder to its storage."""

from pathlib import Path

from antiphon.config.errors import ConfigurationError
from antiphon.jobs.local_storage import LocalFolder
from antiphon.jobs.object_storage import ObjectFolder
from antiphon.jobs.storage import Storage


def open_storage(url: str) -> Storage:
    """A path, or an address that fsspec knows. Creates the folder. Raises ConfigurationError."""
    from fsspec.core import url_to_fs
    from fsspec.implementations.local import LocalFileSystem

    try:
        if "://" not in url:
            return LocalFolder(Path(url).expanduser())
        files, path = url_to_fs(url)
        if isinstance(files, LocalFileSystem):
            return LocalFolder(Path(path))
        return ObjectFolder(url, files, path)
    except OSError as error:
        raise ConfigurationError(f"--output {url}: {error.strerror or error}") from error
    except Exception as error:  # unknown protocol, missing package, missing credentials
        raise ConfigurationError(f"--output {url}: {error}") from error
