"""Arrow in, DataFrames out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from kwdbml.steps.data import DataSet
from kwdbml.steps.failure import NoRows, StepError
from kwdbml.steps.spec import read_job
from tests.unit.steps.jobs import Jobs

TYPES = {"i": "INT", "j": "INT", "b": "INT", "f": "FLOAT", "g": "FLOAT", "s": "STRING", "y": "INT"}


def table(**columns: pa.Array) -> pa.Table:
    """Columns in the order of TYPES."""
    return pa.table([columns[name] for name in TYPES], names=[f"c{i}" for i in range(len(TYPES))])


@pytest.fixture
def mixed() -> pa.Table:
    return table(
        i=pa.array([1, 2, 3, 4], pa.int16()),
        j=pa.array([1, None, 3, 4], pa.int32()),
        b=pa.array([True, False, True, False]),
        f=pa.array([1.5, None, float("inf"), float("nan")], pa.float32()),
        g=pa.array([1.0, 2.0, float("-inf"), 4.0]),
        s=pa.array(["a", None, "", "ä"]),
        y=pa.array([1, 2**60 + 1, None, 0]),
    )


def data_set(jobs: Jobs, content: pa.Table, batch: int = 2) -> DataSet:
    return DataSet(read_job(jobs.workspace("TRAIN", content, "y", "r", types=TYPES, batch=batch)))


def test_types_are_those_of_the_contract(jobs: Jobs, mixed: pa.Table) -> None:
    frame = data_set(jobs, mixed).features().frame
    kinds = {name: str(dtype) for name, dtype in frame.dtypes.items()}
    assert kinds == {"i": "int64", "j": "float64", "b": "int64", "f": "float64", "g": "float64", "s": "object"}
    assert list(frame["s"]) == ["a", None, "", "ä"]
    assert np.isnan(frame["j"][1])
    assert list(frame["b"]) == [1, 0, 1, 0]


def test_infinity_is_missing_and_counted_by_row(jobs: Jobs, mixed: pa.Table) -> None:
    rows = data_set(jobs, mixed).features()
    assert rows.infinite == 1
    assert np.isnan(rows.frame["f"][2])
    assert np.isnan(rows.frame["g"][2])


def test_rows_without_target_are_dropped_and_integers_stay_exact(jobs: Jobs, mixed: pa.Table) -> None:
    rows = data_set(jobs, mixed).labelled()
    assert (rows.read, rows.dropped) == (4, 1)
    assert list(rows.frame["y"]) == [1, 2**60 + 1, 0]
    assert rows.frame["y"].dtype == np.int64
    assert list(rows.frame.index) == [0, 1, 2]


def test_nan_and_infinite_targets_are_dropped(jobs: Jobs) -> None:
    content = pa.table({"c0": [1, 2, 3, 4], "c1": [1.0, float("nan"), float("inf"), None]})
    job = read_job(jobs.workspace("TRAIN", content, "y", "r", types={"x": "INT", "y": "FLOAT"}))
    rows = DataSet(job).labelled()
    assert (rows.read, rows.dropped, list(rows.frame["y"])) == (4, 3, [1.0])


def test_a_boolean_target_stays_boolean(jobs: Jobs) -> None:
    content = pa.table({"c0": [1, 2, 3], "c1": [True, None, False]})
    job = read_job(jobs.workspace("TRAIN", content, "y", "b", types={"x": "INT", "y": "BOOL"}))
    assert DataSet(job).labelled().frame["y"].dtype == bool


def test_no_rows_and_no_target_are_told_apart(jobs: Jobs, mixed: pa.Table) -> None:
    with pytest.raises(NoRows, match=r"train_data has no rows"):
        data_set(jobs, mixed.slice(0, 0)).labelled()
    with pytest.raises(NoRows, match=r"all 1 rows of train_data were dropped.*NULL"):
        data_set(jobs, mixed.slice(2, 1)).labelled()


def test_batches_are_the_whole_in_pieces(jobs: Jobs, mixed: pa.Table) -> None:
    data = data_set(jobs, mixed, batch=1)
    pieces = list(data.batches(3))
    assert [len(rows.frame) for rows, _ in pieces] == [3, 1]
    assert [done for _, done in pieces] == [0.75, 1.0]
    assert sum(rows.infinite for rows, _ in pieces) == 1
    joined = [value for rows, _ in pieces for value in rows.frame["s"]]
    assert joined == ["a", None, "", "ä"]


def test_no_batches_no_pieces(jobs: Jobs, mixed: pa.Table) -> None:
    assert list(data_set(jobs, mixed.slice(0, 0)).batches(3)) == []


def test_frames_can_be_written_to(jobs: Jobs) -> None:
    """One batch without NULLs could be the memory map itself."""
    content = pa.table({"c0": [1.0, 2.0], "c1": [1, 2]})
    job = read_job(jobs.workspace("TRAIN", content, "y", "r", types={"x": "FLOAT", "y": "INT"}))
    frame = DataSet(job).labelled().frame
    frame.loc[0, "x"] = 9.0
    frame["x"].to_numpy(copy=True)[0] = 3.0
    assert list(frame["x"]) == [9.0, 2.0]


def test_two_features_may_share_a_column(jobs: Jobs) -> None:
    workspace = jobs.workspace("TRAIN", pd.DataFrame({"x": [1.0, np.inf], "y": [1, 2]}), "y", "r")
    job = read_job(workspace)
    job.features.append(type(job.features[0])("again", "FLOAT", "c0"))
    rows = DataSet(job).features()
    assert list(rows.frame.columns) == ["x", "again"]
    assert rows.infinite == 1


def test_a_missing_column_is_an_error(jobs: Jobs) -> None:
    job = read_job(jobs.workspace("TRAIN", pd.DataFrame({"x": [1.0], "y": [1]}), "y", "r"))
    job.features.append(type(job.features[0])("gone", "FLOAT", "c7"))
    with pytest.raises(StepError, match='no column for "gone"'):
        DataSet(job).features()


def test_names_of_any_kind(jobs: Jobs) -> None:
    names = ["select", 'a "quoted" name', "Großes 列", "two words", "y"]
    frame = pd.DataFrame({name: [1.0, 2.0] for name in names})
    rows = DataSet(read_job(jobs.workspace("TRAIN", frame, "y", "r"))).labelled()
    assert list(rows.frame.columns) == names
