"""The step *predict*: one answer per row and target into ``predictions.arrow``, in the order of the data.

Built-in models and those without a ``batch_predict.py`` answer in pieces, so that memory stays bounded; the user's
``model_predict`` gets the whole frame, as the vendor has it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from kwdbml.model import ProblemType
from kwdbml.steps import returned
from kwdbml.steps.bundle import Bundle
from kwdbml.steps.control import Control
from kwdbml.steps.data import DataSet
from kwdbml.steps.failure import BadReturn, clean
from kwdbml.steps.metrics import THRESHOLD
from kwdbml.steps.outcome import Outcome
from kwdbml.steps.predictor import Predictor
from kwdbml.steps.spec import Column, Job
from kwdbml.steps.transform import PredictionTransformer

SCRIPT = "pipeline/batch_predict.py"
PIECE = 100_000  # rows

Array = npt.NDArray[Any]


def built_in(job: Job, predictor: Predictor, control: Control, outcome: Outcome) -> None:
    """Piece by piece."""
    with PredictionFile(job.outputs / "predictions.arrow", job, _Classes(job, outcome).of) as file:
        for rows, done in DataSet(job).batches(PIECE):
            outcome.count(rows)
            if len(rows.frame):
                file.write(predictor.answers(rows.frame).values, len(rows.frame))
            control.fraction(done)


def by_user(
    job: Job, pipeline: Bundle, model: Bundle, transformer: PredictionTransformer | None, outcome: Outcome
) -> None:
    """``model_predict(model_path, x_test)`` on the whole frame; not called for an empty one."""
    with model.active():  # the script unpickles what needs the model's own modules
        function = pipeline.required(SCRIPT, "model_predict")
    rows = DataSet(job).features()
    outcome.count(rows)
    with PredictionFile(job.outputs / "predictions.arrow", job) as file:
        count = len(rows.frame)
        if not count:
            return
        inputs = transformer.frame_before(rows.frame) if transformer else rows.frame
        with model.active():
            result = pipeline.call(function, str(model.root / "model"), inputs)
        values = returned.answers(result, job.target_names, count, "model_predict")
        file.write(transformer.after(values) if transformer else values, count)


class _Classes:
    """What a model without classes of its own (a Booster, a SavedModel) says of a binary target, as the class.

    The result column is the target's, and a probability does not fit into it. Which targets' answers are probabilities
    is seen at the first that lies between 0 and 1, and holds for the rest of the data.
    """

    def __init__(self, job: Job, outcome: Outcome) -> None:
        self._job, self._outcome = job, outcome
        self._soft: set[int] = set()

    def of(self, values: Array, number: int) -> Array:
        """The answers for the target of that number: 0 and 1 for INT, false and true for BOOL; others as they are."""
        target = self._job.targets[number]
        if self._job.problem_type != ProblemType.BINARY or target.type not in ("INT", "BOOL"):
            return values
        if values.dtype.kind not in "fiu" or np.isnan(values).any():
            return values
        if number not in self._soft and bool(np.isin(values, (0, 1)).all()):
            return values.astype(bool) if target.type == "BOOL" else values
        if number not in self._soft and not self._found(values, number):
            return values
        chosen: Array = values >= THRESHOLD
        return chosen if target.type == "BOOL" else chosen.astype(np.int64)

    def _found(self, values: Array, number: int) -> bool:
        soft = values.dtype.kind == "f" and bool(np.all((values >= 0) & (values <= 1)))
        if soft:
            self._soft.add(number)
            name = self._job.targets[number].name
            self._outcome.note(
                f"{name}: the model gives a probability; the class is written, by the threshold {THRESHOLD}"
            )
        return soft


class PredictionFile:
    """Arrow's file format, columns t0, t1 …, of float64, int64, utf8 or bool; the name appears when it is complete.

    A later piece may need a wider type than the first one told (1 and then 0.5): then what is written is written anew.
    ``classes`` turns the answers for the target of a number into what is written.
    """

    def __init__(self, path: Path, job: Job, classes: Callable[[Array, int], Array] | None = None) -> None:
        self._classes = classes or _as_they_are
        self._path = path
        self._partial = path.with_name(path.name + ".part")
        self._job = job
        self._schema: pa.Schema | None = None
        self._writer: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is None:
            if self._writer is None:
                self._open(_schema([_type_without_rows(self._job, target) for target in self._job.targets]))
            self._writer.close()
            self._partial.replace(self._path)
        elif self._writer is not None:
            self._writer.close()

    def write(self, values: Array, rows: int) -> None:
        """(rows,) or (rows, targets); a table of class probabilities for one target becomes the likeliest class."""
        found = [self._classes(column, number) for number, column in enumerate(self._columns(values))]
        pairs = zip(found, self._job.targets, strict=True)
        columns = [typed(column, self._job, target) for column, target in pairs]
        if any(len(column) != rows for column in columns):
            raise BadReturn(f"{len(values)} predictions for {rows} rows")
        types = [column.type for column in columns]
        if self._schema is None:
            self._open(_schema(types))
        elif types != list(self._schema.types):
            wider = _schema([_wider(a, b) for a, b in zip(self._schema.types, types, strict=True)])
            if wider != self._schema:
                self._rewrite(wider)
            columns = [_cast(column, field.type) for column, field in zip(columns, wider, strict=True)]
        self._writer.write_batch(pa.record_batch(columns, schema=self._schema))

    def _columns(self, values: Array) -> list[Array]:
        targets = len(self._job.targets)
        if values.ndim == 1 and targets == 1:
            return [values]
        if values.ndim == 2 and targets == 1 and self._job.classifies:
            return [np.argmax(values, axis=1)]
        width = 1 if values.ndim == 1 else values.shape[1]
        if width != targets:
            raise BadReturn(f"{width} predictions per row for {targets} targets")
        return [values[:, i] for i in range(targets)]

    def _open(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._writer = pa.ipc.new_file(str(self._partial), schema)

    def _rewrite(self, schema: pa.Schema) -> None:
        self._writer.close()
        old = self._partial.with_name(self._partial.name + ".old")
        self._partial.replace(old)
        self._open(schema)
        with pa.OSFile(str(old)) as source:
            file = pa.ipc.open_file(source)
            for index in range(file.num_record_batches):
                batch = file.get_batch(index)
                columns = [_cast(c, field.type) for c, field in zip(batch.columns, schema, strict=True)]
                self._writer.write_batch(pa.record_batch(columns, schema=schema))
        old.unlink()


def _as_they_are(values: Array, _number: int) -> Array:
    return values


def _schema(types: list[pa.DataType]) -> pa.Schema:
    return pa.schema([(f"t{i}", kind) for i, kind in enumerate(types)])


def _type_without_rows(job: Job, target: Column) -> pa.DataType:
    if not job.classifies:
        return pa.float64()
    return {"INT": pa.int64(), "BOOL": pa.bool_(), "STRING": pa.string()}.get(target.type, pa.float64())


def typed(values: Array, job: Job, target: Column) -> pa.Array:
    """The answers as one of the four types: a regression's are float64, whole numbers for an INT class are int64."""
    kind = values.dtype.kind
    if kind == "O":
        return _from_objects(values, job, target)
    if kind == "b":
        return pa.array(values.astype(np.float64)) if not job.classifies else pa.array(values)
    if kind in "iu":
        if not job.classifies or (kind == "u" and len(values) and int(values.max()) > np.iinfo(np.int64).max):
            return pa.array(values.astype(np.float64))
        return pa.array(values.astype(np.int64))
    if kind == "f":
        whole = job.classifies and target.type == "INT" and bool(np.all(values == np.floor(values)))
        fits = whole and bool(np.all(np.abs(values) < 2.0**53))
        return pa.array(values.astype(np.int64)) if fits else pa.array(values.astype(np.float64))
    dates = pd.Series(values)
    return _from_texts([None if gone else str(date) for date, gone in zip(dates, dates.isna(), strict=True)])


def _from_objects(values: Array, job: Job, target: Column) -> pa.Array:
    """Python objects: what all of them are, else text. Missing ones are NULL."""
    missing = np.asarray(pd.isna(values))
    present = values[~missing]
    if all(isinstance(value, (bool, np.bool_)) for value in present) and len(present):
        return pa.array([None if gone else bool(v) for v, gone in zip(values, missing, strict=True)], pa.bool_())
    numbers = all(isinstance(value, (int, float, np.number)) for value in present)
    if numbers and len(present):
        if job.classifies and all(isinstance(value, (int, np.integer)) for value in present):
            return pa.array([None if gone else int(v) for v, gone in zip(values, missing, strict=True)], pa.int64())
        floats = np.array([np.nan if gone else float(v) for v, gone in zip(values, missing, strict=True)])
        return typed(floats, job, target) if not missing.any() else pa.array(floats, from_pandas=True)
    if not len(present):
        return pa.nulls(len(values), _type_without_rows(job, target))
    return _from_texts([None if gone else str(v) for v, gone in zip(values, missing, strict=True)])


def _from_texts(texts: list[str | None]) -> pa.Array:
    try:
        column = pa.array(texts, pa.string())
        if not any("\x00" in text for text in column.unique().to_pylist() if text):
            return column
    except UnicodeEncodeError:  # lone surrogates
        pass
    return pa.array([None if text is None else clean(text) for text in texts], pa.string())


def _wider(first: pa.DataType, second: pa.DataType) -> pa.DataType:
    """The narrowest type that holds both."""
    if first == second:
        return first
    kinds = {first, second}
    if pa.string() in kinds:
        return pa.string()
    return pa.float64() if pa.float64() in kinds else pa.int64()


def _cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    return column if column.type == kind else column.cast(kind, safe=False)
