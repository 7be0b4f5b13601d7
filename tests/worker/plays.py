"""What the fake engine's runs do: the parts of a step, played inside the test's process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from kwdbml.engines.fake import FakeJob
from tests.worker.site import result

MODEL = b"the bytes of a model"
_MADE: dict[str, Callable[[int], Any]] = {
    "FLOAT": lambda n: pa.array([i + 0.5 for i in range(n)], pa.float64()),
    "INT": lambda n: pa.array(range(n), pa.int64()),
    "STRING": lambda n: pa.array([f"label {i}" for i in range(n)], pa.string()),
    "BOOL": lambda n: pa.array([i % 2 == 0 for i in range(n)], pa.bool_()),
}


def spec_of(job: FakeJob) -> dict[str, Any]:
    """job.json."""
    found: dict[str, Any] = json.loads((job.inputs / "job.json").read_text())
    return found


def staged(job: FakeJob) -> Any:
    """data.arrow as a table."""
    with pa.OSFile(str(job.inputs / "data.arrow")) as file:
        return pa.ipc.open_file(file).read_all()


def write_predictions(job: FakeJob, columns: list[Any], batch: int = 7) -> None:
    """predictions.arrow, in batches that are not those of the data."""
    table = pa.table({f"t{i}": column for i, column in enumerate(columns)})
    with pa.OSFile(str(job.outputs / "predictions.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=batch)


def predictions(job: FakeJob, rows: int) -> list[Any]:
    """So many answers for each target, of its type."""
    return [_MADE[t["type"]](rows) for t in spec_of(job)["target"]]


def step(job: FakeJob) -> int:
    """Does what a well-behaved step does."""
    kind, rows = spec_of(job)["type"], staged(job).num_rows
    if kind == "TRAIN":
        (job.outputs / "model.zip").write_bytes(MODEL)
    elif kind == "BATCH_PREDICT":
        write_predictions(job, predictions(job, rows))
    (job.outputs / "result.json").write_text(result(rows_read=rows))
    return 0


def fail(job: FakeJob) -> int:
    """A step whose user code raised."""
    error = {"type": "ValueError", "message": "no such luck", "step": "train", "traceback": ["train.py, line 3"]}
    (job.outputs / "error.json").write_text(json.dumps(error))
    return 1


class Held:
    """A step that waits in the middle until the test lets it go on; ``at`` is set when it waits."""

    def __init__(self) -> None:
        self.at = asyncio.Event()
        self.go = asyncio.Event()

    async def __call__(self, job: FakeJob) -> int:
        job.progress("train", 0.5)
        self.at.set()
        await self.go.wait()
        return step(job)
