"""What is said of a checkpoint that the hub does not give: one sentence, with the remedy."""

from collections.abc import Sequence
from pathlib import Path

from antiphon.config.errors import CheckpointError, near

FOLDER = "models--"  # how the hub's cache begins the name of a model's folder


def not_fetched(
    model: str, revision: str | None, error: Exception, names: Sequence[str]
) -> CheckpointError:
    """For what the hub's client raised of `model`. `names`: of models that there are."""
    hint = _hint(model, [*names, *_cached()])
    return CheckpointError(f"{_message(model, revision, error)}{hint}")


def _message(model: str, revision: str | None, error: Exception) -> str:
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name = model if revision is None else f"revision {revision} of {model}"
    if isinstance(error, LocalEntryNotFoundError):
        reason, remedy = f"the hub ({constants.ENDPOINT}) cannot be reached", "check the network"
        if constants.HF_HUB_OFFLINE:
            reason, remedy = "HF_HUB_OFFLINE forbids to fetch it", "unset HF_HUB_OFFLINE"
        return (
            f"{name} is not in the hub's cache ({constants.HF_HUB_CACHE}), and {reason}: {remedy}, "
            "or give the folder of a checkpoint."
        )
    if isinstance(error, GatedRepoError):
        return (
            f"{model} is only for those who were let in: ask for it at {constants.ENDPOINT}/"
            f"{model}, and log in (hf auth login)."
        )
    if isinstance(error, RepositoryNotFoundError):
        return f"the hub has no model {model}, or a private one: then log in (hf auth login)."
    if isinstance(error, RevisionNotFoundError):
        return f"{model} has no revision {revision} on the hub."
    reason = (str(error).splitlines() or [""])[0]
    return f"cannot fetch {model} from the hub: {type(error).__name__}: {reason}."


def _hint(model: str, names: Sequence[str]) -> str:
    if model in names:  # rightly written: what is near would be another one
        return ""
    suggestion = near(model, names)
    if "/" in model:
        return suggestion
    sizes = " Whisper's sizes are tiny, base, small, medium, large-v3, turbo, ..."
    return f" There is no folder of that name either.{suggestion or sizes}"


def _cached() -> list[str]:
    """The ids of models in the hub's cache."""
    from huggingface_hub import constants

    folders = Path(constants.HF_HUB_CACHE).glob(f"{FOLDER}*")
    return [folder.name.removeprefix(FOLDER).replace("--", "/") for folder in folders]
