"""predictions.arrow: four types, one row per row, in bounded memory."""

from __future__ import annotations

import pickle
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from kwdbml.steps.failure import BadReturn
from kwdbml.steps.outcome import Outcome
from kwdbml.steps.predict import PredictionFile, typed
from kwdbml.steps.spec import Column, Job, read_job
from tests.unit.steps.jobs import Jobs, Result


def job(jobs: Jobs, problem: str = "b", target: str = "INT") -> Job:
    return read_job(jobs.workspace("BATCH_PREDICT", pd.DataFrame({"x": [1.0]}), "y", problem, types={"y": target}))


def objects(*values: Any) -> Any:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


@pytest.mark.parametrize(
    ("values", "problem", "target", "kind", "expected"),
    [
        (np.array([1.0, 2.0]), "b", "INT", "int64", [1, 2]),
        (np.array([1.0, 0.5]), "b", "INT", "double", [1.0, 0.5]),
        (np.array([1.0, 2.0]), "b", "FLOAT", "double", [1.0, 2.0]),
        (np.array([1, 2], np.int8), "r", "INT", "double", [1.0, 2.0]),
        (np.array([0.5], np.float32), "r", "FLOAT", "double", [0.5]),
        (np.array([True]), "b", "BOOL", "bool", [True]),
        (np.array([1], np.uint64), "m", "INT", "int64", [1]),
        (np.array([2**64 - 1], np.uint64), "m", "INT", "double", [2.0**64]),
        (objects("a", None, "b\x00\udc80"), "m", "STRING", "string", ["a", None, "b?"]),
        (objects(1, 2), "m", "INT", "int64", [1, 2]),
        (objects(1, None), "m", "INT", "int64", [1, None]),
        (objects(1.5, None), "r", "FLOAT", "double", [1.5, None]),
        (objects(True, None), "b", "BOOL", "bool", [True, None]),
        (objects("a", 1), "m", "STRING", "string", ["a", "1"]),
        (objects(None, None), "m", "STRING", "string", [None, None]),
        (np.array(["2020-01-01", "NaT"], "datetime64[s]"), "m", "STRING", "string", ["2020-01-01 00:00:00", None]),
    ],
)
def test_types(jobs: Jobs, values: Any, *, problem: str, target: str, kind: str, expected: list[Any]) -> None:
    column = typed(values, job(jobs, problem, target), Column("y", target, None))
    assert str(column.type) == kind
    assert column.to_pylist() == expected


def read(path: Path) -> pa.Table:
    with pa.OSFile(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


@pytest.mark.parametrize(
    ("pieces", "kind", "expected"),
    [
        ([np.array([1.0]), np.array([0.5]), np.array([2.0])], "double", [1.0, 0.5, 2.0]),
        ([np.array([True]), np.array([2])], "int64", [1, 2]),
        ([np.array([1]), objects("x"), np.array([0.5])], "string", ["1", "x", "0.5"]),
        ([objects("x"), np.array([1])], "string", ["x", "1"]),
    ],
)
def test_a_later_piece_may_need_a_wider_type(jobs: Jobs, pieces: list[Any], kind: str, expected: list[Any]) -> None:
    where = job(jobs)
    path = where.outputs / "predictions.arrow"
    with PredictionFile(path, where) as file:
        for piece in pieces:
            file.write(piece, 1)
            assert not path.exists(), "the name appears when the file is complete"
    table = read(path)
    assert str(table.schema.field("t0").type) == kind
    assert table["t0"].to_pylist() == expected
    assert [p.name for p in where.outputs.iterdir()] == ["predictions.arrow"]


def test_no_rows_have_the_targets_type(jobs: Jobs) -> None:
    for problem, target, kind in (
        ("r", "INT", "double"),
        ("b", "BOOL", "bool"),
        ("m", "STRING", "string"),
        ("m", "INT", "int64"),
    ):
        where = job(jobs, problem, target)
        with PredictionFile(where.outputs / "predictions.arrow", where):
            pass
        table = read(where.outputs / "predictions.arrow")
        assert (len(table), str(table.schema.field("t0").type)) == (0, kind)


def test_a_wrong_number_of_rows(jobs: Jobs) -> None:
    where = job(jobs)
    with (
        pytest.raises(BadReturn, match="2 predictions for 3 rows"),
        PredictionFile(where.outputs / "p.arrow", where) as file,
    ):
        file.write(np.array([1, 2]), 3)
    assert not (where.outputs / "p.arrow").exists()


def test_an_empty_data_set(jobs: Jobs, cancer: pd.DataFrame) -> None:
    trained = jobs.run(
        "TRAIN", cancer, "benign", "b", algorithm="logistic_regression", hyperparameters={"max_iter": 5000}
    )
    zips: dict[str, Any] = {"model": trained.out / "model.zip"}
    empty = cancer.drop(columns="benign").iloc[:0]
    script = "def model_predict(model_path, x_test):\n    raise AssertionError('not for nothing')\n"
    scripted = {**zips, "pipeline": {"pipeline/batch_predict.py": script}}
    for some in (zips, scripted):
        result = jobs.run("BATCH_PREDICT", empty, "benign", "b", zips=some, types={"benign": "INT"})
        assert len(result.predictions) == 0
        assert result.json["rows_read"] == 0


def test_pieces_come_in_order(jobs: Jobs, diabetes: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    from kwdbml.steps import predict

    trained = jobs.run("TRAIN", diabetes, "progress", "r", algorithm="linear_regression")
    zips: dict[str, Any] = {"model": trained.out / "model.zip"}
    features = diabetes.drop(columns="progress")
    whole = jobs.run("BATCH_PREDICT", features, "progress", "r", zips=zips).predictions
    monkeypatch.setattr(predict, "PIECE", 100)
    pieces = jobs.run("BATCH_PREDICT", features, "progress", "r", zips=zips, batch=70)
    assert pieces.json["rows_read"] == len(diabetes)
    assert pieces.predictions["t0"].to_numpy() == pytest.approx(whole["t0"].to_numpy())


PROBABLY = """
class Model:
    def __init__(self, answers):
        self.answers = answers
    def predict(self, inputs):
        return self.answers[: len(inputs)]
"""


def answered(jobs: Jobs, answers: Any, target: str, problem: str = "b", **files: str) -> Result:
    """A batch prediction by a model that knows no classes and gives these answers."""
    namespace: dict[str, Any] = {}
    exec(PROBABLY, namespace)
    module = types.ModuleType("answering")
    module.Model = namespace["Model"]  # type: ignore[attr-defined]
    module.Model.__module__ = "answering"
    sys.modules["answering"] = module
    try:
        model = pickle.dumps(module.Model(answers))
    finally:
        del sys.modules["answering"]
    zips: dict[str, Any] = {"model": {"model/model.pkl": model, "pipeline/answering.py": PROBABLY}}
    if files:
        zips["pipeline"] = {f"pipeline/{name}.py": text for name, text in files.items()}
    frame = pd.DataFrame({"x": np.arange(len(answers), dtype="float64")})
    return jobs.run("BATCH_PREDICT", frame, "y", problem, zips=zips, types={"y": target})


@pytest.mark.parametrize(
    ("answers", "problem", "target", "expected", "noted"),
    [
        (np.array([0.1, 0.5, 0.9]), "b", "INT", [0, 1, 1], True),
        (np.array([0.1, 0.5, 0.9], np.float32), "b", "BOOL", [False, True, True], True),
        (np.array([0.0, 1.0]), "b", "BOOL", [False, True], False),
        (np.array([0.0, 1.0]), "b", "INT", [0, 1], False),
        (np.array([[0.9, 0.1], [0.2, 0.8]]), "b", "BOOL", [False, True], False),
        (np.array([1.0, 2.0]), "b", "INT", [1, 2], False),
        (np.array([-1.5, 0.5]), "b", "INT", [-1.5, 0.5], False),
        (np.array([0.1, 0.9]), "b", "FLOAT", [0.1, 0.9], False),
        (np.array([0.1, 0.9]), "r", "INT", [0.1, 0.9], False),
        (np.array([True, False]), "b", "BOOL", [True, False], False),
    ],
)
def test_a_probability_becomes_the_class(
    jobs: Jobs, answers: Any, *, problem: str, target: str, expected: list[Any], noted: bool
) -> None:
    result = answered(jobs, answers, target, problem)
    found = result.predictions["t0"].to_pylist()
    assert found == expected
    assert [type(value) for value in found] == [type(value) for value in expected]
    assert any("the threshold 0.5" in note for note in result.json["notes"]) is noted


def test_what_is_a_probability_once_stays_one(jobs: Jobs) -> None:
    """Pieces are judged alike: a certain answer, an uncertain one, and one that rounding took beyond 1."""
    from kwdbml.steps import predict

    where = job(jobs)
    outcome = Outcome()
    classes = predict._Classes(where, outcome)
    with PredictionFile(where.outputs / "p.arrow", where, classes.of) as file:
        for answer in (1.0, 0.25, 1.0000001, 0.0):
            file.write(np.array([answer]), 1)
    assert read(where.outputs / "p.arrow")["t0"].to_pylist() == [1, 0, 1, 0]
    assert len(outcome.notes) == 1


def test_a_batch_predict_keeps_what_it_returns(jobs: Jobs) -> None:
    script = "import pandas as pd\ndef model_predict(model_path, x_test):\n    return pd.DataFrame({'y': [0.1, 0.9]})\n"
    result = answered(jobs, np.array([0.1, 0.9]), "INT", batch_predict=script)
    assert result.predictions["t0"].to_pylist() == [0.1, 0.9]
    assert result.json["notes"] == []
