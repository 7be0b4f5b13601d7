"""The staged data set: Arrow's file format, memory-mapped, as the DataFrames that models and user code get.

INT is int64 (float64 with NULLs), FLOAT is float64, STRING is object with None. Infinity in a feature becomes NaN and
is counted by row. Rows without a target are dropped and counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from kwdbml.model import DATA_ARGUMENTS
from kwdbml.steps.failure import NoRows, StepError
from kwdbml.steps.spec import Column, Job

Array = npt.NDArray[Any]


@dataclass(slots=True)
class Rows:
    """``frame`` has the features in declared order, then, when asked for, the targets. Counts are of rows."""

    frame: pd.DataFrame
    read: int
    dropped: int = 0
    infinite: int = 0


class DataSet:
    """``data.arrow``: nothing is read before it is asked for, and nothing is kept."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._path = str(job.inputs / "data.arrow")
        with pa.memory_map(self._path) as source:
            file = pa.ipc.open_file(source)
            self._schema = file.schema
            self._batches = file.num_record_batches

    def features(self) -> Rows:
        """All rows, features only."""
        return self._whole(self._job.features, [])

    def labelled(self) -> Rows:
        """All rows that have their targets, features and targets; NoRows when none is left."""
        argument = DATA_ARGUMENTS[self._job.type]
        rows = self._whole(self._job.features, self._job.targets)
        if rows.read == 0:
            raise NoRows(f"{argument} has no rows", hint="let the query give at least one; look at its WHERE")
        if rows.dropped == rows.read:
            names = ", ".join(self._job.target_names)
            raise NoRows(
                f"all {rows.read} rows of {argument} were dropped: the target {names} is NULL, NaN or infinite in every"
                " one of them",
                hint="give rows in which the target has a value",
            )
        return rows

    def batches(self, at_least: int) -> Iterator[tuple[Rows, float]]:
        """Features in pieces of at least ``at_least`` rows, the last maybe smaller; and the fraction read."""
        waiting: list[pa.RecordBatch] = []
        # Read, not mapped: pages of a map stay resident, and would count against the job's memory.
        with pa.OSFile(self._path) as source:
            file = pa.ipc.open_file(source, options=self._only(self._job.features))
            for index in range(self._batches):
                waiting.append(file.get_batch(index))
                if sum(batch.num_rows for batch in waiting) >= at_least or index == self._batches - 1:
                    table = pa.Table.from_batches(waiting)
                    waiting = []
                    yield rows_of(table, self._job.features), (index + 1) / self._batches

    def _whole(self, features: list[Column], targets: list[Column]) -> Rows:
        """The map is let go at the end: frames hold copies."""
        with pa.memory_map(self._path) as source:
            table = pa.ipc.open_file(source, options=self._only([*features, *targets])).read_all()
            return rows_of(table, features, targets)

    def _only(self, columns: list[Column]) -> pa.ipc.IpcReadOptions:
        """Read the columns that are ours; others travel in the file to be written back."""
        fields = set()
        for column in columns:
            index = self._schema.get_field_index(column.column) if column.column else -1
            if index < 0:
                raise StepError(f'data.arrow has no column for "{column.name}"')
            fields.add(index)
        return pa.ipc.IpcReadOptions(included_fields=sorted(fields))


def rows_of(table: pa.Table, features: list[Column], targets: Sequence[Column] = ()) -> Rows:
    """Features, and targets when given, as a frame; infinite features are NaN, rows without a target are gone."""
    keep = _present(table, targets)
    arrays = [_array(table, column) for column in features]
    infinite = _without_infinity(arrays)
    arrays += [_target(table, column) for column in targets]
    dropped = int(len(keep) - keep.sum())
    if dropped:
        arrays = [array[keep] for array in arrays]
    names = [column.name for column in [*features, *targets]]
    return Rows(frame_of(names, arrays, table.num_rows - dropped), table.num_rows, dropped, infinite)


def frame_of(names: list[str], arrays: list[Array], length: int) -> pd.DataFrame:
    """A frame over these arrays without copying them; objects stay objects (pandas 3 would make them its own text)."""
    index = pd.RangeIndex(length)
    columns = {i: pd.Series(a, index=index, dtype=a.dtype, copy=False) for i, a in enumerate(arrays)}
    frame = pd.DataFrame(columns, index=index, copy=False)
    frame.columns = pd.Index(names, dtype=object)
    return frame


def _array(table: pa.Table, column: Column) -> Array:
    """A feature's values."""
    values = table.column(column.column)
    if column.type == "STRING":
        return _texts(values)
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    if pa.types.is_null(values.type):
        values = values.cast(pa.float64())
    array = np.asarray(values.to_numpy())  # float64 with NaN where there are NULLs
    wanted = np.int64 if column.type == "INT" and array.dtype.kind in "iu" else np.float64
    array = array.astype(wanted, copy=False)
    # Without NULLs and in one piece it would be the memory map itself: user code writes into its frames.
    return array if array.flags.writeable else array.copy()


def _target(table: pa.Table, column: Column) -> Array:
    """A target's values; NULLs are filled with anything, their rows go: integers above 2**53 stay exact."""
    values = table.column(column.column)
    if column.type == "BOOL":
        return np.asarray(values.cast(pa.bool_()).fill_null(False).to_numpy())
    if column.type == "INT":
        return np.asarray(values.cast(pa.int64()).fill_null(0).to_numpy())
    return _array(table, column)


def _present(table: pa.Table, targets: Sequence[Column]) -> npt.NDArray[np.bool_]:
    """Rows in which every target has a value. An infinite one cannot be learned or scored: it counts as missing too."""
    keep = np.ones(table.num_rows, dtype=bool)
    for column in targets:
        values = table.column(column.column)
        keep &= np.asarray(values.is_valid().to_numpy())
        if pa.types.is_floating(values.type):
            keep &= np.isfinite(np.asarray(values.to_numpy()))
    return keep


def _texts(values: pa.ChunkedArray) -> Array:
    """Objects with None; equal texts are one object, which is what makes dictionaries of them fast later."""
    if pa.types.is_null(values.type) or len(values) == 0:
        return np.full(len(values), None, dtype=object)
    if not pa.types.is_string(values.type) and not pa.types.is_large_string(values.type):
        values = values.cast(pa.string())
    encoded = values.dictionary_encode().unify_dictionaries().combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):  # older pyarrow; one dictionary by now
        encoded = encoded.chunk(0)
    texts = np.append(np.asarray(encoded.dictionary.to_numpy(zero_copy_only=False), dtype=object), [None])
    codes = encoded.indices.fill_null(len(texts) - 1).to_numpy()
    return np.asarray(texts[codes])


def _without_infinity(arrays: list[Array]) -> int:
    """Infinity becomes NaN in place; the number of rows that had one."""
    found: Array | None = None
    for array in arrays:
        if array.dtype.kind != "f":
            continue
        infinite = np.isinf(array)
        if infinite.any():
            array[infinite] = np.nan
            found = infinite if found is None else found | infinite
    return 0 if found is None else int(found.sum())
