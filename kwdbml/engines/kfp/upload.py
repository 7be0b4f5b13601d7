"""A filled workspace into the object store, for the pod that will work on it.

Streamed: neither the data set nor the packages are ever whole in memory or on disk a second time.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kwdbml import travel
from kwdbml.engines.base import Run
from kwdbml.engines.kfp.access import VERSION, begin_outputs, input_key, publish, renew
from kwdbml.engines.kfp.objectstore import ObjectStore, Stored
from kwdbml.errors import EngineError

__all__ = ["STEP_COMMAND", "renew", "upload_run"]

STEP_COMMAND = ("python", "-m", "kwdbml.steps", "--warm")


def upload_run(
    store: ObjectStore,
    run: Run,
    inputs: Path,
    *,
    threads: int,
    presign: int,
    turn: str = "1",
    unsafe: bool = False,
    command: Sequence[str] = STEP_COMMAND,
) -> str:
    """Upload ``inputs`` and write the access document; the text of the Secret's access.json.

    ``turn``: of all launches of that run this one's alone. Within it this may be called again, and writes over what an
    earlier call left.
    """
    items = [_item(name, stored) for name, stored in sorted(upload_inputs(store, run.name, turn, inputs).items())]
    document: dict[str, Any] = {
        "version": VERSION,
        "run": run.name,
        "command": list(command),
        "threads": threads,
        "env": dict(run.env),
        "ttl": run.ttl,
        "python": travel.python_tag(),
        "unsafe": unsafe or run.trusted,  # may run where nothing hides the pod's Secret
        "keep_user": bool(run.placement.mounts),  # what is mounted belongs to the pod's user
        "turn": turn,
        "inputs": items,
        "outputs": begin_outputs(store, run.name, run.about.type),
    }
    return publish(store, run.name, document, presign)


def upload_inputs(store: ObjectStore, run: str, turn: str, inputs: Path) -> dict[str, Stored]:
    """Every file of ``in/`` in the form in which it travels; job.json first, by which ``access.delete_run`` finds the
    turn: a bundle may take several parts."""
    done: dict[str, Stored] = {}
    for path in sorted(inputs.iterdir(), key=lambda path: (path.name != "job.json", path.name)):
        name = travel.PARQUET if path.name == travel.DATA else travel.PACKAGES.get(path.name, path.name)
        key = input_key(store, run, turn, name)
        if path.name == travel.DATA:
            done[name] = _data(store, key, path)
        elif path.name in travel.PACKAGES and path.is_dir():
            done[name] = _packages(store, key, path)
        else:
            done[name] = _file(store, key, path)
    return done


def _item(name: str, stored: Stored) -> dict[str, Any]:
    return {"name": name, "bytes": stored.bytes, "sha256": stored.sha256}


def _data(store: ObjectStore, key: str, path: Path) -> Stored:
    with store.writer(key) as writer:
        try:
            travel.write_parquet(path, writer)
        except travel.BadCargo as error:
            hint = "Leave that column out of the query, or cast it to text there."
            raise EngineError(f"the data set cannot be sent to the cluster: {error}", hint=hint) from error
    return writer.stored


def _packages(store: ObjectStore, key: str, directory: Path) -> Stored:
    with store.writer(key) as writer:
        travel.write_tar(directory, writer)
    return writer.stored


def _file(store: ObjectStore, key: str, path: Path) -> Stored:
    if not travel.plain_name(path.name):
        raise EngineError(f"a workspace holds in/{path.name!r}, which is no name for an input")
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise EngineError(f"a workspace holds in/{path.name}, which is not a plain file")
        return store.send(key, file)
