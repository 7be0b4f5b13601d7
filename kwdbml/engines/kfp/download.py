"""What a pod has left in the object store, back into a workspace.

Everything there was written by a container in which user code ran, which may have got hold of the addresses: a
manifest is bounded and checked before a word of it is believed, only outputs that were asked for are taken, and each
must be what the manifest says.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

from kwdbml import travel
from kwdbml.engines.kfp import access
from kwdbml.engines.kfp.objectstore import ObjectStore, Part, Stored, damaged
from kwdbml.engines.kfp.storeerrors import StoreError, on_disk
from kwdbml.engines.outputs import check_all, check_size
from kwdbml.errors import EngineError

_MANIFEST_LIMIT = 1 << 20
_LOG_LIMIT = 16 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TURN = re.compile(r"[0-9a-z]{0,32}")
_REASON = re.compile(r"[A-Za-z]{0,40}")
_ETAG = re.compile(r"[\x21-\x7e]{1,200}")
_MOST_TEXT = 4000


@dataclass(frozen=True, slots=True)
class Output:
    """A file that the step left. ``parts`` when it was written in parts; without bytes there is no object at all."""

    name: str
    stored: Stored
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class Manifest:
    """The step's last word: how it ended and what it left. ``refused``: outputs that are no plain files, and why."""

    exit_code: int
    signal: int | None
    reason: str
    message: str
    step: str | None
    outputs: tuple[Output, ...]
    refused: tuple[tuple[str, str], ...] = ()
    log: Stored | None = None
    turn: str = ""


def read_manifest(store: ObjectStore, run: str) -> Manifest | None:
    """None when the step has not ended (or could not say so); EngineError when it is none of ours."""
    content = store.get(store.key(run, access.MANIFEST), limit=_MANIFEST_LIMIT)
    return None if content is None else parse_manifest(content)


def parse_manifest(content: bytes) -> Manifest:
    """EngineError for anything that pod.py does not write."""
    try:
        found = json.loads(content, parse_constant=_no_constant)
        return _manifest(found)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise EngineError(
            "the job's manifest is not one that kwdbml writes",
            detail=str(error)[:_MOST_TEXT],
            hint="Run the job again.",
        ) from error


def fetch_outputs(
    store: ObjectStore,
    run: str,
    manifest: Manifest,
    outputs: Path,
    wanted: Mapping[str, int | None] | None = None,
    *,
    disk: int | None = None,
) -> None:
    """Every output that is wanted into ``outputs``: none before the size of all of them was looked at. What is there
    from an earlier call stays. ``disk``: bytes that they may have together."""
    for name, problem in manifest.refused:
        if wanted is None or name in wanted:
            raise EngineError(f"the job's output “{name}” {problem}", hint="Write ordinary files within the limit.")
    left = [output for output in manifest.outputs if wanted is None or output.name in wanted]
    for output in left:
        check_size(output.name, output.stored.bytes, (wanted or {}).get(output.name))
    check_all(sum(output.stored.bytes for output in left), disk)
    document = access.read_document(store, run)
    with on_disk(outputs.name):
        outputs.mkdir(parents=True, exist_ok=True)
    for output in left:
        place = document["outputs"].get(output.name)
        if place is None:
            raise EngineError(f"the job's manifest names “{output.name}”, which was not asked for")
        with on_disk(output.name):
            _fetch(store, run, output, place, outputs / output.name)


def fetch_inputs(store: ObjectStore, run: str, inputs: Path, names: Collection[str], turn: str = "") -> None:
    """Those files that the worker staged, and kept no copy of; ``turn``: by which launch the pod had them, for another
    one may have read other rows. What is there from an earlier call stays."""
    if not (left := [name for name in names if not (inputs / name).exists()]):
        return
    with on_disk(inputs.name):
        inputs.mkdir(parents=True, exist_ok=True)
    document = access.read_document(store, run, turn)
    items = {item["name"]: item for item in document["inputs"]}
    for name in left:
        sent = travel.PARQUET if name == travel.DATA else name
        if sent not in items:
            raise EngineError(f"run {run} was given no {sent}")
        # in a directory of our own: somebody who has lost his lease may be fetching the same
        with on_disk(name), TemporaryDirectory(prefix=".", dir=inputs) as own:
            key = access.input_key(store, run, document["turn"], sent)
            store.fetch(key, Path(own, sent), access.recorded(items[sent]))
            _unfold(Path(own))
            Path(own, name).replace(inputs / name)


def read_log(store: ObjectStore, run: str, expected: Stored | None = None) -> bytes:
    """The lines that were kept when the step ended; b"" when there are none. ``expected``: as the manifest says."""
    content = store.get(store.key(run, "out", access.LOG), limit=_LOG_LIMIT) or b""
    if expected is not None and (len(content), hashlib.sha256(content).hexdigest()) != expected:
        raise damaged(f"{run}/out/{access.LOG}", expected, len(content))
    return content


def _unfold(inputs: Path) -> None:
    try:
        travel.unfold(inputs)
    except travel.BadCargo as error:
        raise EngineError(f"an input in the object store is not what was sent: {error}") from error


def _fetch(store: ObjectStore, run: str, output: Output, place: dict[str, Any], path: Path) -> None:
    if path.is_file() and not path.is_symlink() and path.stat().st_size == output.stored.bytes:
        return
    if not output.stored.bytes:
        path.unlink(missing_ok=True)
        path.touch(mode=0o600, exist_ok=False)
        return
    key = store.key(run, "out", output.name)
    if upload := place.get("upload_id"):
        _complete(store, run, key, str(upload), output)
    try:
        store.fetch(key, path, output.stored)
    except StoreError as error:
        if error.missing:
            raise damaged(f"out/{output.name}", output.stored, 0) from error
        raise


def _complete(store: ObjectStore, run: str, key: str, upload: str, output: Output) -> None:
    """Put the parts together, unless that was done by a worker that died then. When two workers have launched the run
    at once, the pod may have had the other one's addresses."""
    try:
        store.complete(key, upload, output.parts)
    except StoreError as error:
        if error.retryable:
            raise
        for name, other in access.uploads(store, run):
            with contextlib.suppress(StoreError):
                if name == output.name and other != upload:
                    store.complete(key, other, output.parts)
        if store.size(key) is None:
            raise


# -- reading what nobody vouches for -------------------------------------------------------------------------------


def _manifest(found: dict[str, Any]) -> Manifest:
    if _integer(found["version"], 1, 1 << 30) != access.VERSION:
        raise ValueError(f"it is of version {found['version']}")
    outputs = tuple(_output(item) for item in _list(found["outputs"], 16))
    if len({output.name for output in outputs}) != len(outputs):
        raise ValueError("it names an output twice")
    number, step = found.get("signal"), found.get("step")
    if not (isinstance(found["reason"], str) and _REASON.fullmatch(found["reason"])):
        raise ValueError("its reason is no word")
    if step is not None and not (isinstance(step, str) and step.isidentifier() and len(step) <= 32):
        raise ValueError("its step is no word")
    return Manifest(
        exit_code=_integer(found["exit_code"], 0, 255),
        signal=None if number is None else _integer(number, 1, 64),
        reason=found["reason"],
        message=_text(found["message"]),
        step=step,
        outputs=outputs,
        turn=_turn(found.get("turn", "")),
        log=_stored(log, _LOG_LIMIT) if (log := found.get("log")) else None,
        refused=tuple((_name(item["name"]), _text(item["problem"])) for item in _list(found.get("refused", []), 16)),
    )


def _output(item: dict[str, Any]) -> Output:
    name = _name(item["name"])
    stored = _stored(item, access.LARGE_LIMIT if name in access.LARGE else access.SMALL_LIMIT)
    parts = []
    for number, part in enumerate(_list(item.get("parts", []), len(access.PART_SIZES)), 1):
        if _integer(part["number"], 1, 10_000) != number:
            raise ValueError(f"the parts of {name} are not in order")
        etag = part["etag"]
        if not (isinstance(etag, str) and _ETAG.fullmatch(etag)):
            raise ValueError(f"a part of {name} has no tag")
        parts.append(Part(number, etag))
    if bool(parts) != (name in access.LARGE and stored.bytes > 0):
        raise ValueError(f"{name} has {len(parts)} parts")
    return Output(name, stored, tuple(parts))


def _turn(turn: object) -> str:
    if not (isinstance(turn, str) and _TURN.fullmatch(turn)):
        raise ValueError("its turn is none")
    return turn


def _stored(item: dict[str, Any], limit: int) -> Stored:
    digest = item["sha256"]
    if not (isinstance(digest, str) and _SHA256.fullmatch(digest)):
        raise ValueError("a SHA-256 is none")
    return Stored(_integer(item["bytes"], 0, limit), digest)


def _name(name: object) -> str:
    if name not in access.SMALL + access.LARGE:
        raise ValueError(f"it names an output {str(name)[:100]!r}, which no step leaves")
    return str(name)


def _integer(value: object, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"a number is not between {least:,} and {most:,}")
    return value


def _list(value: object, most: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > most:
        raise ValueError(f"a list is none, or longer than {most}")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("a text is none")
    return "".join(c if c.isprintable() else " " for c in value[:_MOST_TEXT])


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}")
