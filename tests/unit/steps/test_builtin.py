"""Built-in algorithms from data set to predictions: what goes in comes out, and order plays no part."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kwdbml.frameworks.algorithms import ALGORITHMS
from kwdbml.model import METRICS, ProblemType
from tests.unit.steps.jobs import Jobs, Result, environment

CLASSIFIERS = [name for name, algorithm in ALGORITHMS.items() if ProblemType.BINARY in algorithm.problem_types]
REGRESSORS = [name for name, algorithm in ALGORITHMS.items() if ProblemType.REGRESSION in algorithm.problem_types]
#: Small, so that the suite stays fast.
SMALL: dict[str, dict[str, Any]] = {
    "logistic_regression": {"max_iter": 2000},
    "random_forest": {"n_estimators": 20},
    "hist_gradient_boosting": {"max_iter": 20},
    "xgboost": {"n_estimators": 20},
    "lightgbm": {"n_estimators": 20},
}


def train(jobs: Jobs, algorithm: str, frame: pd.DataFrame, target: str, problem: str, **spec: Any) -> Result:
    hyperparameters = {**SMALL.get(algorithm, {}), **spec.pop("hyperparameters", {})}
    names = {"framework": ALGORITHMS[algorithm].framework, "algorithm": algorithm, "hyperparameters": hyperparameters}
    return jobs.run("TRAIN", frame, target, problem, **names, **spec)


def predict(jobs: Jobs, model: Result, frame: pd.DataFrame, target: str, problem: str, **spec: Any) -> list[Any]:
    zips = {"model": model.out / "model.zip"}
    result = jobs.run("BATCH_PREDICT", frame.drop(columns=target, errors="ignore"), target, problem, zips=zips, **spec)
    values: list[Any] = result.predictions["t0"].to_pylist()
    assert len(values) == len(frame)
    return values


@pytest.mark.parametrize("algorithm", CLASSIFIERS)
def test_boolean_labels_of_flights(jobs: Jobs, flights: pd.DataFrame, algorithm: str) -> None:
    """Numbers and categories with missing values in both, and a target with NULLs."""
    result = train(jobs, algorithm, flights, "late", "b")
    content = result.json
    known = int(flights["late"].notna().sum())
    assert content["rows_read"] == len(flights)
    assert content["rows_dropped"] == len(flights) - known
    assert content["hold_out"]["rows_train"] + content["hold_out"]["rows_test"] == known
    assert content["positive_label"] is True
    assert [metric["objective"] for metric in content["metrics"]] == list(METRICS[ProblemType.BINARY])
    assert result.metrics["auc"] > 0.6
    values = predict(jobs, result, flights, "late", "b", framework=ALGORITHMS[algorithm].framework)
    assert {type(value) for value in values} == {bool}


@pytest.mark.parametrize("algorithm", CLASSIFIERS)
def test_text_labels_come_out_as_they_went_in(jobs: Jobs, iris: pd.DataFrame, algorithm: str) -> None:
    result = train(jobs, algorithm, iris, "species", "m")
    assert [metric["objective"] for metric in result.json["metrics"]] == list(METRICS[ProblemType.MULTI])
    assert "positive_label" not in result.json
    assert result.metrics["accuracy"] > 0.85
    values = predict(jobs, result, iris, "species", "m", framework=ALGORITHMS[algorithm].framework)
    assert np.mean(np.array(values) == iris["species"]) > 0.9


@pytest.mark.parametrize("algorithm", CLASSIFIERS)
def test_integer_labels_come_out_as_they_went_in(jobs: Jobs, cancer: pd.DataFrame, algorithm: str) -> None:
    """Labels that are not 0 and 1."""
    frame = cancer.assign(benign=cancer["benign"] * 5 - 3)
    result = train(jobs, algorithm, frame, "benign", "b")
    assert result.json["positive_label"] == 2
    assert result.metrics["accuracy"] > 0.9
    values = predict(jobs, result, frame, "benign", "b", framework=ALGORITHMS[algorithm].framework)
    assert set(values) == {-3, 2}
    assert {type(value) for value in values} == {int}


@pytest.mark.parametrize("algorithm", REGRESSORS)
def test_regression(jobs: Jobs, diabetes: pd.DataFrame, algorithm: str) -> None:
    result = train(jobs, algorithm, diabetes, "progress", "r")
    assert [metric["objective"] for metric in result.json["metrics"]] == list(METRICS[ProblemType.REGRESSION])
    assert result.metrics["r2"] > 0.2
    assert result.metrics["rmse"] == pytest.approx(result.metrics["mse"] ** 0.5)
    values = predict(jobs, result, diabetes, "progress", "r", framework=ALGORITHMS[algorithm].framework)
    assert {type(value) for value in values} == {float}


@pytest.mark.parametrize("algorithm", CLASSIFIERS)
def test_rows_and_columns_in_any_order_make_the_same_model(jobs: Jobs, flights: pd.DataFrame, algorithm: str) -> None:
    frame = flights.iloc[:2000]
    shuffled = frame.sample(frac=1, random_state=5).sample(frac=1, axis=1, random_state=5)
    first = train(jobs, algorithm, frame, "late", "b")
    second = train(jobs, algorithm, shuffled, "late", "b", batch=311)
    assert first.metrics == second.metrics
    framework = ALGORITHMS[algorithm].framework
    one = predict(jobs, first, frame, "late", "b", framework=framework)
    other = predict(jobs, second, frame[list(reversed(frame.columns))], "late", "b", framework=framework)
    assert one == other
    assert model_bytes(first) == model_bytes(second)


def model_bytes(result: Result) -> bytes:
    with zipfile.ZipFile(result.out / "model.zip") as bundle:
        assert bundle.namelist() == ["model/model.joblib"]
        return bundle.read("model/model.joblib")


@pytest.mark.parametrize("algorithm", [*CLASSIFIERS, "linear_regression"])
def test_what_training_has_not_seen(jobs: Jobs, flights: pd.DataFrame, algorithm: str) -> None:
    """New categories, NULL where there was none, a column of NULLs alone, huge and infinite numbers."""
    frame = flights.iloc[:1500].assign(empty=np.nan)
    target, problem = ("late", "b") if algorithm != "linear_regression" else ("distance", "r")
    framework = ALGORITHMS[algorithm].framework
    model = train(jobs, algorithm, frame.drop(columns="late" if problem == "r" else []), target, problem)
    strange = frame.iloc[:6].drop(columns=["late", target], errors="ignore").astype({"day": float, "month": float})
    strange.loc[0, "carrier"] = "never seen"
    strange.loc[1, "carrier"] = None
    strange.loc[2, "day"] = np.nan
    strange.loc[3, "day"] = np.inf
    strange.loc[4, "month"] = 1e300
    strange.loc[5, "empty"] = 1.0
    assert len(predict(jobs, model, strange, target, problem, framework=framework)) == 6


def test_many_categories_are_bounded(jobs: Jobs) -> None:
    """A text that is nearly a key: 5,000 values, one of them telling."""
    keys = pd.Series([f"key {i}" if i % 2 else "even" for i in range(5000)], dtype=object)
    frame = pd.DataFrame({"key": keys, "x": 1.0, "y": [bool(i % 2) for i in range(5000)]})
    for algorithm in CLASSIFIERS:
        result = train(jobs, algorithm, frame, "y", "b")
        assert result.metrics["accuracy"] == 1.0
        assert (result.out / "model.zip").stat().st_size < 200_000


def test_only_texts_and_only_one_number(jobs: Jobs, flights: pd.DataFrame) -> None:
    frame = flights.iloc[:1500].dropna(subset="late")
    for algorithm in CLASSIFIERS:
        for columns in (["carrier", "origin"], ["day"]):
            train(jobs, algorithm, frame[[*columns, "late"]], "late", "b").json  # noqa: B018 -- asserts success


def test_the_model_loads_and_predicts_without_kwdbml(jobs: Jobs, flights: pd.DataFrame, tmp_path: Path) -> None:
    frame = flights.iloc[:1000].dropna(subset="late")
    for algorithm in ("hist_gradient_boosting", "xgboost", "lightgbm"):
        result = train(jobs, algorithm, frame, "late", "b")
        with zipfile.ZipFile(result.out / "model.zip") as bundle:
            bundle.extractall(tmp_path / algorithm)
        frame.to_pickle(tmp_path / "rows.pickle")
        code = (
            "import sys; sys.modules['kwdbml'] = None\n"
            "import joblib, pandas\n"
            f"model = joblib.load({str(tmp_path / algorithm / 'model' / 'model.joblib')!r})\n"
            f"print(*model.predict(pandas.read_pickle({str(tmp_path / 'rows.pickle')!r})))"
        )
        process = subprocess.run(
            [sys.executable, "-c", code], check=True, env=environment(), capture_output=True, text=True
        )
        printed = [text == "True" for text in process.stdout.split()]
        assert printed == predict(jobs, result, frame, "late", "b", framework=ALGORITHMS[algorithm].framework)


def test_sixteen_hundred_columns_train(jobs: Jobs) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(300, 1599)), columns=[f"x{i}" for i in range(1599)])
    frame["y"] = frame["x7"] > 0
    assert train(jobs, "hist_gradient_boosting", frame, "y", "b").metrics["accuracy"] > 0.9


def test_names_of_any_kind(jobs: Jobs, iris: pd.DataFrame) -> None:
    names = ["select", 'a "quoted" [name] <x>', "花瓣 宽度", "two words", "Spécies"]
    frame = iris.set_axis(names, axis=1)
    for algorithm in CLASSIFIERS:
        assert train(jobs, algorithm, frame, "Spécies", "m").metrics["accuracy"] > 0.85


def test_the_positive_label_is_the_one_asked_for(jobs: Jobs, cancer: pd.DataFrame) -> None:
    spec = {"hyperparameters": {"positive_label": "0"}}
    asked = train(jobs, "hist_gradient_boosting", cancer, "benign", "b", **spec)
    default = train(jobs, "hist_gradient_boosting", cancer, "benign", "b")
    assert asked.json["positive_label"] == 0
    assert asked.metrics["auc"] == pytest.approx(default.metrics["auc"])
    assert asked.metrics["recall"] != default.metrics["recall"]
    spec = {"hyperparameters": {"positive_label": "maybe"}}
    error = train(jobs, "hist_gradient_boosting", cancer, "benign", "b", **spec).error
    assert "maybe" in error["message"]
    assert "0, 1" in error["message"]


def test_evaluate_and_predict_agree_with_the_training(jobs: Jobs, cancer: pd.DataFrame) -> None:
    model = train(jobs, "hist_gradient_boosting", cancer, "benign", "b")
    zips = {"model": model.out / "model.zip"}
    result = jobs.run("EVALUATE", cancer, "benign", "b", zips=zips, objectives=[["F1", "auc"]])
    assert list(result.metrics) == ["f1", "auc"]
    assert result.metrics["auc"] > 0.99
    assert result.json["positive_label"] == 1
    assert result.json["rows_read"] == len(cancer)
    truth = cancer["benign"].to_numpy() == 1
    guess = np.array(predict(jobs, model, cancer, "benign", "b")) == 1
    assert result.metrics["f1"] == pytest.approx(2 * (truth & guess).sum() / (truth.sum() + guess.sum()))


def test_evaluating_one_class_is_no_error(jobs: Jobs, cancer: pd.DataFrame) -> None:
    model = train(jobs, "hist_gradient_boosting", cancer, "benign", "b")
    some = cancer[cancer["benign"] == 1]
    result = jobs.run("EVALUATE", some, "benign", "b", zips={"model": model.out / "model.zip"})
    assert result.metrics["auc"] is None
    assert result.metrics["accuracy"] > 0.9
    assert any("only one class" in note for note in result.json["notes"])


def test_versions_of_libraries_are_told(jobs: Jobs, iris: pd.DataFrame) -> None:
    import sklearn
    import xgboost

    libraries = train(jobs, "xgboost", iris, "species", "m").json["libraries"]
    assert libraries["scikit-learn"] == sklearn.__version__
    assert libraries["xgboost"] == xgboost.__version__


def test_infinite_features_are_counted(jobs: Jobs, cancer: pd.DataFrame) -> None:
    frame = cancer.copy()
    frame.loc[[3, 5], "mean radius"] = np.inf
    frame.loc[3, "mean area"] = -np.inf
    result = train(jobs, "logistic_regression", frame, "benign", "b")
    assert result.json["rows_infinite"] == 2
    assert any("infinite" in note for note in result.json["notes"])


class TestBadData:
    def test_no_rows(self, jobs: Jobs, cancer: pd.DataFrame) -> None:
        error = train(jobs, "xgboost", cancer.iloc[:0], "benign", "b").error
        told = "train_data has no rows; let the query give at least one; look at its WHERE"
        assert error == {"type": "NoRows", "message": told, "step": "prepare", "traceback": []}

    def test_no_target_at_all(self, jobs: Jobs, cancer: pd.DataFrame) -> None:
        error = train(jobs, "xgboost", cancer.assign(benign=np.nan), "benign", "b", types={"benign": "INT"}).error
        assert error["type"] == "NoRows"
        assert "benign is NULL, NaN or infinite" in error["message"]

    @pytest.mark.parametrize("label", [1, True, "yes"])
    def test_one_class(self, jobs: Jobs, cancer: pd.DataFrame, label: Any) -> None:
        frame = cancer.drop(columns="benign")
        frame["benign"] = pd.Series([label] * len(frame), dtype=object if isinstance(label, str) else None)
        error = train(jobs, "hist_gradient_boosting", frame, "benign", "b").error
        assert error["type"] == "OneClass"
        assert f"only one class, {label}," in error["message"]

    def test_three_classes_in_a_binary_problem(self, jobs: Jobs, iris: pd.DataFrame) -> None:
        error = train(jobs, "hist_gradient_boosting", iris, "species", "b").error
        assert "3 classes (setosa, versicolor, virginica)" in error["message"]
        assert "Multi_Classification" in error["message"]

    def test_fractions_are_no_classes(self, jobs: Jobs, diabetes: pd.DataFrame) -> None:
        frame = diabetes.assign(progress=diabetes["progress"] % 7 + 0.5)
        error = train(jobs, "hist_gradient_boosting", frame, "progress", "m").error
        assert "fractions" in error["message"]

    def test_features_without_any_value(self, jobs: Jobs, cancer: pd.DataFrame) -> None:
        frame = pd.DataFrame({"x": np.nan, "benign": cancer["benign"]})
        message = train(jobs, "xgboost", frame, "benign", "b").error["message"]
        assert "no feature has a single value in train_data: x; each is NULL" in message

    @pytest.mark.parametrize("algorithm", ["linear_regression", "random_forest", "lightgbm"])
    @pytest.mark.parametrize("rows", [1, 20])
    def test_a_constant_number(self, jobs: Jobs, algorithm: str, rows: int) -> None:
        frame = pd.DataFrame({"x": np.arange(float(rows)), "y": 2.5})
        message = train(jobs, algorithm, frame, "y", "r").error["message"]
        assert message.startswith(f'the target "y" is 2.5 in all {rows} rows of train_data; there is nothing to learn')

    @pytest.mark.filterwarnings("ignore::RuntimeWarning")
    @pytest.mark.parametrize("algorithm", ["linear_regression", "xgboost"])
    def test_what_a_library_refuses_has_a_cure(self, jobs: Jobs, algorithm: str) -> None:
        frame = pd.DataFrame({"x": np.arange(20.0), "y": np.arange(20.0)})
        assert train(jobs, algorithm, frame, "y", "r").code == 0
        error = train(jobs, algorithm, frame * 1e300, "y", "r").error
        assert error["message"].startswith(f"{algorithm} cannot learn from train_data: ")
        assert error["message"].endswith("try another algorithm")
        assert (error["step"], error["type"]) == ("train", "InvalidParameter")

    @pytest.mark.parametrize("algorithm", ["logistic_regression", "random_forest", "lightgbm", "xgboost"])
    def test_a_hundred_thousand_categories_and_a_single_row_per_class(self, jobs: Jobs, algorithm: str) -> None:
        names = pd.Series([f"n{i}" for i in range(100_000)], dtype=object)
        frame = pd.DataFrame({"name": names, "y": np.arange(100_000) % 2})
        assert train(jobs, algorithm, frame, "y", "b").code == 0
        few = pd.DataFrame({"x": np.arange(3.0), "y": pd.Series(list("abc"), dtype=object)})
        assert train(jobs, algorithm, few, "y", "m").code == 0

    def test_hyperparameters_are_checked_again(self, jobs: Jobs, cancer: pd.DataFrame) -> None:
        error = train(jobs, "xgboost", cancer, "benign", "b", hyperparameters={"max_depth": 99}).error
        assert error["type"] == "InvalidParameter"
        assert "1 to 32" in error["message"]

    def test_too_few_rows_to_hold_out(self, jobs: Jobs) -> None:
        frame = pd.DataFrame({"x": [1.0, 2.0, 3.0, 4.0], "y": [True, False, True, False]})
        result = train(jobs, "logistic_regression", frame, "y", "b")
        assert result.json["hold_out"]["rows_test"] == 0
        assert set(result.metrics.values()) == {None}
        assert any("no rows were held out" in note for note in result.json["notes"])

    def test_a_corrupt_model(self, jobs: Jobs, cancer: pd.DataFrame) -> None:
        model = {"model": {"model/model.joblib": b"not a pickle"}}
        result = jobs.run("BATCH_PREDICT", cancer.drop(columns="benign"), "benign", "b", zips=model)
        assert result.error["step"] == "predict"
        assert not (result.out / "predictions.arrow").exists()


@pytest.mark.parametrize("algorithm", ["random_forest", "hist_gradient_boosting", "lightgbm"])
def test_few_rows_have_smaller_leaves_unless_told(jobs: Jobs, algorithm: str) -> None:
    frame = pd.DataFrame({"x": np.arange(20.0), "y": np.arange(20.0) * 2 + 1})
    assert train(jobs, algorithm, frame, "y", "r").metrics["r2"] > 0.9
    name = "min_child_samples" if algorithm == "lightgbm" else "min_samples_leaf"
    assert train(jobs, algorithm, frame, "y", "r", hyperparameters={name: 10}).metrics["r2"] < 0.5
