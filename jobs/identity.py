"""What the results of a folder belong to: a manifest and the settings that decide about its texts.

A run that goes on in a folder must be the same job, else its results would be of two kinds.
"""

import json
from collections.abc import Mapping
from typing import Any

from antiphon.config.errors import ConfigurationError
from antiphon.config.foreign import shown
from antiphon.jobs.formats import Format
from antiphon.jobs.manifest import Survey
from antiphon.jobs.open_storage import open_storage
from antiphon.jobs.output import JOB, LOCK, Output
from antiphon.jobs.storage import Storage

VERSION = 1  # of the folder's layout
# Engine options that change texts. Others (replicas, addresses, sizes of batches) may change
# between runs.
TEXT_OPTIONS = (
    "revision",
    "dtype",
    "quantization",
    "kv_cache_dtype",
    "encoder_window",
    "max_model_len",
    "max_encoder_len",
)


def job(survey: Survey, settings: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON will give it back. `settings`: by the name that users type."""
    manifest = {"lines": survey.lines, "bytes": survey.bytes, "sha256": survey.sha256}
    content = {"version": VERSION, "manifest": manifest, "settings": settings}
    plain: dict[str, Any] = json.loads(json.dumps(content, default=str))
    return plain


def open_output(
    url: str,
    form: Format,
    new: Mapping[str, Any],
    *,
    shard_lines: int,
    allow_changes: bool,
    retry_failed: bool,
) -> Output:
    """The folder, with what earlier runs of the job `new` have left in it. Raises
    ConfigurationError if it cannot be used: see `check_same_job` and `Storage.lock`."""
    storage = open_storage(url)
    try:
        storage.lock(LOCK)
        check_same_job(storage, form, new, allow_changes)
        output = Output(storage, form, shard_lines)
        output.recover(retry_failed)
        return output
    except BaseException:
        storage.close()
        raise


def check_same_job(
    storage: Storage, form: Format, new: Mapping[str, Any], allow_changes: bool
) -> None:
    """Notes in the folder which job it holds. Raises ConfigurationError if it holds
    another one and `allow_changes` is false, if its shards are of another format, or if
    they are of no job."""
    old = _read(storage)
    shards = [name for name in storage.names("") if name.startswith("part-")]
    if old is None:
        if shards:
            raise ConfigurationError(
                f"--output {storage.url} has {shards[0]}, which no batch has written: give a "
                "folder that is empty, or of an earlier run"
            )
    elif old.get("version") != VERSION:
        raise ConfigurationError(
            f"--output {storage.url} was written by another version of antiphon: give another one"
        )
    elif others := [name for name in shards if not name.endswith(form.suffix)]:
        raise ConfigurationError(
            f"--output {storage.url} has {others[0]}, and all its shards must be of one format, "
            f"not '{form.suffix}' too: give another --output, or the --format of before"
        )
    elif (changes := _changes(old, new)) and not allow_changes:
        raise ConfigurationError(
            f"--output {storage.url} holds results of another job: {'; '.join(changes)}. "
            "Give another --output, or --allow-changes to keep the finished lines as they are and "
            "do the rest in the new way"
        )
    if old != new:
        content = json.dumps(new, indent=2, ensure_ascii=False).encode() + b"\n"
        storage.write(JOB, lambda file: file.write(content))


def _read(storage: Storage) -> dict[str, Any] | None:
    if not storage.exists(JOB):
        return None
    with storage.open(JOB) as file:
        content: dict[str, Any] = json.loads(file.read())
    return content


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One phrase for each difference."""
    changes = []
    if old["manifest"] != new["manifest"]:
        before, now = old["manifest"]["lines"], new["manifest"]["lines"]
        sizes = f"{before} lines before, {now} now" if before != now else f"still {now} lines"
        changes.append(f"the manifest has changed ({sizes})")
    settings = {**old["settings"], **new["settings"]}
    for name in settings:
        before, now = old["settings"].get(name), new["settings"].get(name)
        if before != now:
            changes.append(f"{name} was {shown(before)} and is {shown(now)}")
    return changes
