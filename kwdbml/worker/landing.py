"""Collecting what a run left behind and landing it, all in one transaction.

Nothing that comes out of a run is believed: files are opened without following links, JSON is bounded and cleaned,
Arrow is validated, and row counts must agree.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from kwdbml.engines.base import RunStatus, Workspace
from kwdbml.engines.outputs import has_output, open_output, read_output
from kwdbml.errors import InvalidParameter, LimitExceeded
from kwdbml.model import MAIN_METRIC, ProblemType
from kwdbml.store import Claim, Landing, Store

CHUNK = 8 * 1024 * 1024
_RESULT_LIMIT = 16 * 1024 * 1024
_OUTPUT_LIMIT = 1 << 44
_HANDS_OFF = "It is written by kwdbml after your functions have returned: leave it alone."
_MAX_METRICS = 1000
_TEXT_LIMIT = 10_000


def clean(value: Any) -> Any:
    """JSON that jsonb takes: no NUL, no lone surrogate, no NaN or infinity. User code made it."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()[:_TEXT_LIMIT]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {clean(str(k)): clean(v) for k, v in value.items()}
    if isinstance(value, list):
        return [clean(v) for v in value]
    return value


def error_of(workspace: Workspace, status: RunStatus) -> dict[str, Any]:
    """The job's ``error`` for a run that failed: what the step wrote, else what the engine saw."""
    step = status.step or "run"
    fallback = {
        "type": status.reason or "Error",
        "message": status.message or "the run failed",
        "step": step,
        "traceback": [],
    }
    if status.reason not in ("", "Error") or not has_output(workspace.outputs, "error.json"):
        return fallback
    try:
        found = json.loads(read_output(workspace.outputs, "error.json", limit=_RESULT_LIMIT))
        traceback = [clean(str(line)) for line in found.get("traceback") or []][:200]
        told = {name: clean(str(found.get(name) or fallback[name])) for name in ("type", "message", "step")}
        return {**told, "traceback": traceback}
    except (ValueError, KeyError, TypeError, AttributeError):
        return fallback


def outcome_of(workspace: Workspace, problem_type: str) -> dict[str, Any]:
    """What ``worker_land`` takes, from the step's result.json. InvalidParameter when a step wrote something else."""
    try:
        found = json.loads(read_output(workspace.outputs, "result.json", limit=_RESULT_LIMIT))
        metrics = [
            {"objective": clean(str(m["objective"])), "score": _score(m["score"])}
            for m in (found.get("metrics") or [])[:_MAX_METRICS]
        ]
        counts = {k: _count(found.get(k) or 0) for k in ("rows_read", "rows_dropped")}
        libraries = {str(k): str(v) for k, v in (found.get("libraries") or {}).items()}
    except FileNotFoundError:
        raise InvalidParameter(
            "the step ended without a result", hint="Do not end the process from the script (os._exit)."
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InvalidParameter(
            f"the step's result.json is not what it should be: {error}", hint="Do not write result.json from a script."
        ) from None
    result: Any = metrics
    main = next((m["score"] for m in metrics if m["objective"] == MAIN_METRIC[ProblemType(problem_type)]), None)
    if "positive_label" in found:
        result = [{**m, "positive_label": clean(found["positive_label"])} for m in result]
    return {
        "metrics": metrics,
        "result": result,
        "main_score": main if main is not None or not metrics else metrics[0]["score"],
        "libraries": clean(libraries),
        **counts,
    }


def _score(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(float(value)) else None


def _count(value: Any) -> int:
    count = int(value)
    if not 0 <= count < 1 << 63:
        raise ValueError(f"{count} is no number of rows")
    return count


def file_hash(path: Path) -> str:
    """SHA-256 of a staged file, as lineage."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def land_model(store: Store, claim: Claim, workspace: Workspace, outcome: dict[str, Any], limit: int) -> None:
    """Store the model's bundles, then land the job, in one transaction."""
    async with store.landing(claim) as landing:
        artefacts = [await _put(landing, workspace, "model", limit)]
        if has_output(workspace.outputs, "transformer.zip"):
            artefacts.append(await _put(landing, workspace, "transformer", limit))
        await landing.land({**outcome, "artefacts": artefacts})


async def land_rows(
    store: Store, claim: Claim, workspace: Workspace, carried: list[str], outcome: dict[str, Any], table: str
) -> None:
    """Write the result table and land the job, in one transaction."""
    rows = ResultRows(workspace, carried)
    async with store.landing(claim) as landing:
        await landing.write_rows(rows.batches)
        await landing.land(
            {
                **outcome,
                "rows_read": rows.rows,
                "rows_written": rows.rows,
                "result": {"rows": rows.rows, "table": table},
            }
        )


async def land_metrics(store: Store, claim: Claim, outcome: dict[str, Any]) -> None:
    async with store.landing(claim) as landing:
        await landing.land(outcome)


async def _put(landing: Landing, workspace: Workspace, kind: str, limit: int) -> dict[str, Any]:
    digest, size, artefact, number = hashlib.sha256(), 0, None, 0
    with _open(workspace.outputs, f"{kind}.zip") as file:
        total = file.seek(0, 2)
        if total > limit:
            raise LimitExceeded(
                f"the {kind} has {total} bytes, the limit is {limit}",
                hint="Make it smaller (fewer or shallower trees), or an admin raises model_limit.",
            )
        file.seek(0)
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
            artefact = await landing.put(artefact, kind, number, chunk)
            number += 1
    return {"id": str(artefact), "bytes": size, "sha256": digest.hexdigest()}


class ResultRows:
    """The rows of a result table: the carried columns of our own staged file beside the step's predictions."""

    def __init__(self, workspace: Workspace, carried: list[str]) -> None:
        self._data = workspace.inputs / "data.arrow"
        self._outputs = workspace.outputs
        self._carried = carried  # Arrow columns, in the order of the table's
        self.rows = 0  # written so far

    def batches(self, columns: list[dict[str, str]]) -> Iterator[pa.RecordBatch]:
        """Batches with the table's columns in its order; ``columns`` as worker_result_open answers them."""
        targets = [pa.field(c["name"], _ARROW[c["type"]]) for c in columns[len(self._carried) :]]
        with pa.OSFile(str(self._data)) as ours, self._open_predictions() as theirs:
            predictions = _Slices(_validated(theirs, len(targets)))
            for batch in _batches(ours):
                made = predictions.take(batch.num_rows)
                arrays = [batch.column(c) for c in self._carried]
                arrays += [_cast(made.column(i), field) for i, field in enumerate(targets)]
                self.rows += batch.num_rows
                yield pa.RecordBatch.from_arrays(arrays, names=[c["name"] for c in columns])
            predictions.expect_end()

    def _open_predictions(self) -> pa.PythonFile:
        return pa.PythonFile(_open(self._outputs, "predictions.arrow"), mode="r")


def _open(outputs: Path, name: str) -> BinaryIO:
    """One of the step's outputs; InvalidParameter when it is not there."""
    try:
        return open_output(outputs, name, limit=_OUTPUT_LIMIT)
    except FileNotFoundError:
        raise InvalidParameter(f"the step ended without {name}", hint=_HANDS_OFF) from None


_ARROW = {"double precision": pa.float64(), "bigint": pa.int64(), "boolean": pa.bool_(), "text": pa.string()}


def _batches(file: Any) -> Iterator[pa.RecordBatch]:
    reader = pa.ipc.open_file(file)
    for number in range(reader.num_record_batches):
        yield reader.get_batch(number)


def _validated(file: Any, columns: int) -> Iterator[pa.RecordBatch]:
    """Arrow that came out of a sandbox: offsets and lengths are checked before anything reads through them."""
    try:
        for batch in _batches(file):
            batch.validate(full=True)
            if batch.num_columns != columns:
                raise InvalidParameter(
                    f"predictions.arrow has {batch.num_columns} columns, not {columns}", hint=_HANDS_OFF
                )
            yield batch
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InvalidParameter(f"predictions.arrow is damaged: {error}", hint=_HANDS_OFF) from None


def _cast(array: pa.Array, field: pa.Field) -> pa.Array:
    if array.type == field.type:
        return array
    try:
        return pc.cast(array, field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InvalidParameter(
            f'the predictions for "{field.name}" are no {field.type}: {error}',
            hint="Declare the target's type as the model predicts it.",
        ) from None


class _Slices:
    """Batches cut anew: ``take(n)`` answers the next n rows as one batch."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self._rest: pa.RecordBatch | None = None

    def take(self, rows: int) -> pa.RecordBatch:
        parts: list[pa.RecordBatch] = []
        while rows > 0:
            batch = self._rest if self._rest is not None else next(self._batches, None)
            if batch is None:
                raise _unequal("fewer")
            part = batch.slice(0, rows)
            self._rest = batch.slice(part.num_rows) if part.num_rows < batch.num_rows else None
            rows -= part.num_rows
            parts.append(part)
        return parts[0] if len(parts) == 1 else pa.concat_batches(parts)

    def expect_end(self) -> None:
        rest = self._rest if self._rest is not None else next((b for b in self._batches if b.num_rows), None)
        if rest is not None and rest.num_rows:
            raise _unequal("more")


def _unequal(word: str) -> InvalidParameter:
    return InvalidParameter(
        f"the model made {word} predictions than there are rows",
        hint="model_predict answers one row per row, in their order.",
    )
