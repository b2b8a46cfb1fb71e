"""Every error Antiphon raises on purpose. An InputError is a ValueError, too.

AntiphonError
├── ConfigurationError        an option that is unknown, out of range or impossible here
│   └── AttentionBackendError an attention backend that cannot do what was asked of it
├── CheckpointError           a checkpoint that is missing, broken or incomplete
│   └── UnsupportedModelError an architecture that no row of the registry describes
├── InputError                a prompt, a clip or parameters that cannot be served
│   ├── PromptError
│   ├── AudioError
│   ├── ImageError
│   ├── VideoError
│   ├── SamplingError
│   └── ManifestError         a manifest's line, or a dataset's row, of the wrong form
└── RequestError              how a request that was accepted ended without a result
    ├── RequestRefused        can never fit; the message has the numbers
    ├── RequestCancelled
    ├── RequestExpired        its deadline passed
    └── RequestFailed         a worker failed while it ran
        └── EngineDeadError   the engine is closed or a worker process is gone
"""

from collections.abc import Collection

LONGEST_NAME = 200  # characters that are compared: what is misspelt is short


class AntiphonError(Exception):
    """Root of all errors that Antiphon raises on purpose."""


class ConfigurationError(AntiphonError):
    """An option is unknown, out of range or impossible on this machine."""


class AttentionBackendError(ConfigurationError):
    """The requested attention backend cannot be used. The message says why, and names
    those that can."""


class CheckpointError(AntiphonError):
    """The checkpoint is missing, broken or incomplete."""


class UnsupportedModelError(CheckpointError):
    """This architecture is not supported. The message lists those that are."""


class InputError(AntiphonError, ValueError):
    """The input of one request cannot be served. `parameter`: the one at fault, if it
    is one."""

    def __init__(self, *args: object, parameter: str | None = None) -> None:
        super().__init__(*args)
        self.parameter = parameter


class about:
    """An InputError raised inside that names no parameter gets this one. A class, because each
    parameter of each request is checked inside: a generator would take three times as long."""

    def __init__(self, parameter: str) -> None:
        self._parameter = parameter

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, InputError):
            error.parameter = error.parameter or self._parameter


class PromptError(InputError):
    """A prompt of the wrong form, too long, or with ids outside the vocabulary."""


class AudioError(InputError):
    """Audio that cannot be read or used."""


class ImageError(InputError):
    """An image that cannot be read or used."""


class VideoError(InputError):
    """A video that cannot be read or used."""


class SamplingError(InputError):
    """Sampling parameters out of range."""


class ManifestError(InputError):
    """A line of a manifest, or a row of a dataset, that does not say what to do."""


class RequestError(AntiphonError):
    """An accepted request ended without a result."""


class RequestRefused(RequestError):
    """The request can never fit into this engine."""


class RequestTurnedAway(RequestRefused):
    """Too many requests are waiting: the same one may be taken later."""


class RequestCancelled(RequestError):
    """The request was cancelled."""


class RequestExpired(RequestError):
    """The request's deadline passed before it was done."""


class RequestFailed(RequestError):
    """A worker failed while it ran the request."""


class EngineDeadError(RequestFailed):
    """The engine is closed, or one of its worker processes is gone."""


def near(name: str, valid: Collection[str]) -> str:
    """' Did you mean ...?' for a misspelt name; empty where none is near."""
    from difflib import get_close_matches

    close = get_close_matches(name[:LONGEST_NAME], valid, n=1, cutoff=0.75)
    return f" Did you mean '{close[0]}'?" if close else ""


def nearest(name: str, valid: Collection[str]) -> str:
    """As `near`, or else the list of valid ones."""
    return near(name, valid) or f" Valid names: {', '.join(sorted(valid))}."


def describe(error: BaseException) -> str:
    """Type and message of an error, for the sentence that a request ends with. Always
    valid text: a message may quote what a caller gave."""
    text = f"{type(error).__name__}: {error}"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
