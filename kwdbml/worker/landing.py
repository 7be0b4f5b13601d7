"""Collecting what a run left behind and landing it, all in one transaction.

Nothing that comes out of a run is believed: files are opened without following links, JSON is bounded and cleaned,
Arrow is read by ``predictions.py`` alone, and row counts must agree.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from kwdbml.engines.base import RunState, RunStatus, Wanted, Workspace
from kwdbml.engines.outputs import check_size, has_output, open_output, read_output
from kwdbml.errors import EngineError, InvalidParameter
from kwdbml.model import MAIN_METRIC, JobType, ProblemType
from kwdbml.store import Claim, Landing, Store
from kwdbml.worker.predictions import HANDS_OFF, Predictions

CHUNK = 8 * 1024 * 1024
#: Of result.json and error.json: "[[],[],…" takes 20 times as much in Python. Also of the labels in a result, in all.
_JSON_LIMIT = 2 << 20
_OUTPUT_LIMIT = 1 << 44
_MAX_METRICS = 1000
#: What JSON of any shape, depth and size of numbers may raise.
_ODD_JSON = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
_TEXT_LIMIT = 10_000
_DIGEST = re.compile("[0-9a-f]{64}")


def wanted(status: RunStatus, kind: JobType, model_limit: int) -> Wanted:
    """What landing a run reads: of one that failed only why; the data itself where its columns go with the rows."""
    if status.state is not RunState.SUCCEEDED:
        return Wanted(outputs={"error.json": None})
    match kind:
        case JobType.TRAIN:
            outputs = {"result.json": None, "model.zip": model_limit, "transformer.zip": model_limit}
            return Wanted(("data.sha256",), outputs)
        case JobType.EVALUATE:
            return Wanted(("data.sha256",), {"result.json": None})
        case JobType.BATCH_PREDICT:
            return Wanted(
                ("data.sha256", "carried.json", "data.arrow"), {"result.json": None, "predictions.arrow": None}
            )


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
        found = json.loads(read_output(workspace.outputs, "error.json", limit=_JSON_LIMIT))
        traceback = [clean(str(line)) for line in (found.get("traceback") or [])[:200]]
        told = {name: clean(str(found.get(name) or fallback[name])) for name in ("type", "message", "step")}
        return {**told, "traceback": traceback}
    except (*_ODD_JSON, EngineError):
        return fallback


def outcome_of(workspace: Workspace, problem_type: str) -> dict[str, Any]:
    """What ``worker_land`` takes, from the step's result.json. InvalidParameter when a step wrote something else."""
    try:
        found = json.loads(read_output(workspace.outputs, "result.json", limit=_JSON_LIMIT))
        metrics = _metrics(found.get("metrics")) or []
        counts = {k: _count(found.get(k) or 0) for k in ("rows_read", "rows_dropped")}
        libraries = clean({str(k): str(v) for k, v in (found.get("libraries") or {}).items()})
        result = _labelled(metrics, found.get("positive_label"))
        held_out = _held_out(found.get("hold_out"))
    except FileNotFoundError:
        raise InvalidParameter(
            "the step ended without a result", hint="Do not end the process from the script (os._exit)."
        ) from None
    except _ODD_JSON as error:
        raise InvalidParameter(
            f"the step's result.json is not what it should be: {error}", hint="Do not write result.json from a script."
        ) from None
    main = next((m["score"] for m in metrics if m["objective"] == MAIN_METRIC[ProblemType(problem_type)]), None)
    return {
        "metrics": metrics,
        "result": result,
        "main_score": main if main is not None or not metrics else metrics[0]["score"],
        "libraries": libraries,
        **({"held_out": held_out} if held_out else {}),
        **counts,
    }


def _metrics(found: Any) -> list[dict[str, Any]] | None:
    """What a step measured; None when it says nothing about it."""
    if found is None:
        return None
    return [{"objective": clean(str(m["objective"])), "score": _score(m["score"])} for m in found[:_MAX_METRICS]]


def _held_out(found: Any) -> dict[str, Any] | None:
    """What a training tells of its held-out rows: which they were, and how the versions did on them."""
    if found is None:
        return None
    digest = str(found.get("hash") or "")
    return {
        "hash": digest if _DIGEST.fullmatch(digest) else None,
        "rows": _count(found.get("rows_test") or 0),
        **_measured(found),
        "active": _measured(found.get("active") or {}),
    }


def _measured(found: dict[str, Any]) -> dict[str, Any]:
    metrics, problem = _metrics(found.get("metrics")), found.get("problem")
    return {
        "metrics": metrics and _labelled(metrics, found.get("positive_label")),
        "problem": None if problem is None else clean(str(problem)),
    }


def _labelled(metrics: list[dict[str, Any]], label: Any) -> list[dict[str, Any]]:
    """Every metric with the label that counts as positive, or with none when that would make a huge result of it."""
    cleaned = clean(label)
    if cleaned is None or len(metrics) * len(json.dumps(cleaned)) > _JSON_LIMIT:
        return metrics
    return [{**m, "positive_label": cleaned} for m in metrics]


def _score(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(float(value)) else None


def _count(value: Any) -> int:
    count = int(value)
    if not 0 <= count < 1 << 63:
        raise ValueError(f"{count} is no number of rows")
    return count


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
        check_size(f"{kind}.zip", file.seek(0, 2), limit)
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
        names = [c["name"] for c in columns]
        with pa.OSFile(str(self._data)) as ours, _open(self._outputs, "predictions.arrow") as theirs:
            predictions = Predictions(theirs, len(targets))
            for batch in _batches(ours):
                for carried, made in _side_by_side(batch.select(self._carried), predictions):
                    arrays = [*carried.columns, *map(_cast, made.columns, targets)]
                    self.rows += made.num_rows
                    yield pa.RecordBatch.from_arrays(arrays, names=names)
            if predictions.take(1) is not None:
                raise _unequal("more")


def _open(outputs: Path, name: str) -> BinaryIO:
    """One of the step's outputs; InvalidParameter when it is not there."""
    try:
        return open_output(outputs, name, limit=_OUTPUT_LIMIT)
    except FileNotFoundError:
        raise InvalidParameter(f"the step ended without {name}", hint=HANDS_OFF) from None


_ARROW = {"double precision": pa.float64(), "bigint": pa.int64(), "boolean": pa.bool_(), "text": pa.string()}


def _batches(file: Any) -> Iterator[pa.RecordBatch]:
    reader = pa.ipc.open_file(file)
    for number in range(reader.num_record_batches):
        yield reader.get_batch(number)


def _side_by_side(batch: pa.RecordBatch, predictions: Predictions) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    """All rows of a batch of ours, in pieces as long as those of the predictions for them."""
    done = 0
    while done < batch.num_rows:
        made = predictions.take(batch.num_rows - done)
        if made is None:
            raise _unequal("fewer")
        yield batch.slice(done, made.num_rows), made
        done += made.num_rows


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


def _unequal(word: str) -> InvalidParameter:
    return InvalidParameter(
        f"the model made {word} predictions than there are rows",
        hint="model_predict answers one row per row, in their order.",
    )
