"""The frameworks' own file formats and models, with and without user scripts."""

from __future__ import annotations

import importlib.util
import pickle
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression

from kwdbml.errors import InvalidParameter
from kwdbml.frameworks import FRAMEWORKS, framework
from tests.unit.steps.jobs import Jobs

HAS_TENSORFLOW = importlib.util.find_spec("tensorflow") is not None
needs_tensorflow = pytest.mark.skipif(
    not HAS_TENSORFLOW,
    reason="tensorflow is not installed (pip install 'kwdbml[tensorflow]'): SavedModels are untested here",
)

XGBOOST = """
import xgboost
def model_train(x_train, y_train, x_test, y_test):
    data = xgboost.DMatrix(x_train, y_train)
    return xgboost.train({OPTIONS, "nthread": 1}, data, 10)
"""
LIGHTGBM = """
import lightgbm
def model_train(x_train, y_train, x_test, y_test):
    data = lightgbm.Dataset(x_train, y_train.iloc[:, 0])
    return lightgbm.train({OPTIONS, "verbosity": -1, "num_threads": 1}, data, 10)
"""
CASES = [
    ("xgboost", XGBOOST, '"objective": "binary:logistic"', "b", "model.json"),
    ("xgboost", XGBOOST, '"objective": "multi:softprob", "num_class": 3', "m", "model.json"),
    ("xgboost", XGBOOST, '"objective": "reg:squarederror"', "r", "model.json"),
    ("lightgbm", LIGHTGBM, '"objective": "binary"', "b", "model.txt"),
    ("lightgbm", LIGHTGBM, '"objective": "multiclass", "num_class": 3', "m", "model.txt"),
    ("lightgbm", LIGHTGBM, '"objective": "regression"', "r", "model.txt"),
]


@pytest.mark.parametrize(("name", "code", "options", "problem", "file"), CASES)
def test_boosters_without_scripts(
    jobs: Jobs, iris: pd.DataFrame, *, name: str, code: str, options: str, problem: str, file: str
) -> None:
    """Saved in their own format, loaded, and their probabilities read as the problem type has it."""
    codes = iris["species"].map({"setosa": 0, "versicolor": 1, "virginica": 2}).astype("int64")
    target = {"b": (codes == 2).astype("int64"), "m": codes, "r": iris.iloc[:, 3]}[problem]
    frame = iris.iloc[:, :3].assign(y=target)
    pipeline = {"pipeline/train.py": code.replace("OPTIONS", options)}
    trained = jobs.run("TRAIN", frame, "y", problem, framework=name, zips={"pipeline": pipeline})
    assert trained.metrics["rmse" if problem == "r" else "accuracy"] == pytest.approx(
        0 if problem == "r" else 1, abs=0.4
    )
    zips = {"model": trained.out / "model.zip"}
    evaluated = jobs.run("EVALUATE", frame, "y", problem, framework=name, zips=zips)
    if problem == "b":
        assert evaluated.json["positive_label"] == 1
        assert evaluated.metrics["auc"] > 0.95
    turned, types = frame[list(reversed(frame.columns[:3]))], {"y": "FLOAT" if problem == "r" else "INT"}
    predicted = jobs.run("BATCH_PREDICT", turned, "y", problem, framework=name, zips=zips, types=types)
    values = predicted.predictions["t0"]
    assert str(values.type) == ("double" if problem == "r" else "int64")
    if problem == "m":
        assert np.mean(values.to_numpy() == codes) > 0.9
    if problem == "b":
        assert np.mean(values.to_numpy() == target) > 0.9
        assert any("probability" in note for note in predicted.json["notes"])
    import zipfile

    with zipfile.ZipFile(trained.out / "model.zip") as bundle:
        assert f"model/{file}" in bundle.namelist()


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("xgboost", "xgboost.XGBClassifier(n_estimators=5)"),
        ("lightgbm", "lightgbm.LGBMClassifier(n_estimators=5, verbosity=-1)"),
    ],
)
def test_estimators_with_and_without_scripts(jobs: Jobs, iris: pd.DataFrame, name: str, model: str) -> None:
    frame = iris.iloc[:, :4].set_axis(list("abcd"), axis=1).assign(y=(iris["species"] == "setosa").astype("int64"))
    train = f"import {name}\ndef model_train(x, y, a, b):\n    return {model}.fit(x, y.iloc[:, 0])\n"
    scripts: dict[str, Any] = {
        "pipeline/evaluate.py": textwrap.dedent(
            """
            import joblib
            def model_evaluate(model_path, metrics, x_test, y_test):
                model = joblib.load(model_path + "/model.joblib")
                return [{"objective": name, "score": model.score(x_test, y_test)} for name in metrics]
            """
        ),
        "pipeline/batch_predict.py": textwrap.dedent(
            """
            import joblib, pandas as pd
            def model_predict(model_path, x_test):
                return pd.DataFrame({"anything": joblib.load(model_path + "/model.joblib").predict(x_test)})
            """
        ),
    }
    answers = []
    for extra in ({}, scripts):
        pipeline = {"pipeline/train.py": train, **extra}
        trained = jobs.run(
            "TRAIN", frame, "y", "b", framework=name, objectives=[["accuracy"]], zips={"pipeline": pipeline}
        )
        assert trained.metrics["accuracy"] > 0.9
        zips: dict[str, Any] = {"pipeline": pipeline, "model": trained.out / "model.zip"}
        evaluated = jobs.run("EVALUATE", frame, "y", "b", framework=name, objectives=[["accuracy"]], zips=zips)
        assert evaluated.metrics["accuracy"] > 0.9
        predicted = jobs.run("BATCH_PREDICT", frame.drop(columns="y"), "y", "b", framework=name, zips=zips)
        answers.append(predicted.predictions["t0"].to_pylist())
    assert answers[0] == answers[1]


@pytest.mark.parametrize("file", ["model.joblib", "model.pkl", "model.pickle"])
def test_pickles_of_every_ending(jobs: Jobs, diabetes: pd.DataFrame, file: str) -> None:
    """An imported model: fitted on an array, features found by the declared order."""
    features = diabetes.drop(columns="progress")
    model = LinearRegression().fit(features.to_numpy(), diabetes["progress"])
    zips: dict[str, Any] = {"model": {f"model/{file}": pickle.dumps(model), "requirements.txt": "scikit-learn\n"}}
    values = jobs.run("BATCH_PREDICT", features, "progress", "r", zips=zips).predictions["t0"].to_numpy()
    assert values == pytest.approx(model.predict(features.to_numpy()))


def test_columns_are_found_by_name(jobs: Jobs, cancer: pd.DataFrame) -> None:
    features = cancer.drop(columns="benign")
    model = LogisticRegression(max_iter=10_000).fit(features, cancer["benign"])
    zips: dict[str, Any] = {"model": {"model/model.pkl": pickle.dumps(model)}}
    turned = cancer[list(reversed(cancer.columns))]
    assert jobs.run("EVALUATE", turned, "benign", "b", zips=zips).metrics["accuracy"] > 0.9


@pytest.mark.parametrize("name", ["sklearn", "xgboost", "lightgbm"])
@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"readme.txt": "no model"}, "no directory model/"),
        ({"model/model.h5": "x"}, "the model bundle has none of model/model.joblib"),
        ({"model/model.pkl": pickle.dumps([1, 2])}, "holds a list, which has no predict method"),
    ],
)
def test_a_bad_model_bundle(jobs: Jobs, cancer: pd.DataFrame, name: str, files: dict[str, Any], message: str) -> None:
    error = jobs.run(
        "BATCH_PREDICT", cancer.drop(columns="benign"), "benign", "b", framework=name, zips={"model": files}
    ).error
    assert message in error["message"]


def test_an_unknown_framework() -> None:
    with pytest.raises(InvalidParameter, match='"keras"'):
        framework("keras")
    assert [framework(name).name for name in FRAMEWORKS] == list(FRAMEWORKS)


@pytest.mark.skipif(HAS_TENSORFLOW, reason="tensorflow is installed: its absence cannot be tested")
def test_without_tensorflow_the_error_names_the_cure(jobs: Jobs, cancer: pd.DataFrame) -> None:
    zips: dict[str, Any] = {"model": {"model/001/saved_model.pb": b""}}
    error = jobs.run(
        "BATCH_PREDICT", cancer.drop(columns="benign"), "benign", "b", framework="tensorflow", zips=zips
    ).error
    assert "tensorflow cannot be imported" in error["message"]
    assert "pip install 'kwdbml[tensorflow]'" in error["message"]


def test_where_a_saved_model_is_looked_for(tmp_path: Path) -> None:
    tensorflow = framework("tensorflow")
    for name in ("002", "010", "other"):
        (tmp_path / name).mkdir()
    assert tensorflow.find(tmp_path) is None
    for name in ("002", "010", "other"):
        (tmp_path / name / "saved_model.pb").touch()
    assert tensorflow.find(tmp_path) == tmp_path / "010"


@needs_tensorflow
@pytest.mark.filterwarnings("ignore")
def test_tensorflow(jobs: Jobs, cancer: pd.DataFrame) -> None:
    train = """
import numpy as np
import tensorflow as tf
class Model(tf.Module):
    def __init__(self, weights):
        self.w = tf.Variable(weights.astype("float32"))
    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
    def serve(self, x):
        return {"probability": tf.sigmoid(tf.matmul(x, self.w[:2, None]) + self.w[2])}
def model_train(x_train, y_train, x_test, y_test):
    from sklearn.linear_model import LogisticRegression
    fitted = LogisticRegression(max_iter=5000).fit(x_train.to_numpy(), y_train.iloc[:, 0])
    return Model(np.append(fitted.coef_[0], fitted.intercept_))
def model_save(model, model_path):
    tf.saved_model.save(model, model_path + "/001", signatures={"serving_default": model.serve})
"""
    frame = cancer[["mean radius", "mean texture", "benign"]]
    evaluate = """
import tensorflow as tf
def model_evaluate(model_path, metrics, x_test, y_test):
    serve = tf.saved_model.load(model_path + "/001").signatures["serving_default"]
    answer = serve(x=tf.constant(x_test.to_numpy("float32")))["probability"].numpy()[:, 0]
    return [{"objective": "accuracy", "score": ((answer >= 0.5) == y_test["benign"]).mean()}]
"""
    pipeline = {"pipeline/train.py": train, "pipeline/evaluate.py": evaluate}
    trained = jobs.run("TRAIN", frame, "benign", "b", framework="tensorflow", zips={"pipeline": pipeline})
    assert trained.metrics["accuracy"] > 0.8
    zips: dict[str, Any] = {"model": trained.out / "model.zip"}
    evaluated = jobs.run("EVALUATE", frame, "benign", "b", framework="tensorflow", zips=zips)
    assert evaluated.metrics["auc"] > 0.9
    predicted = jobs.run(
        "BATCH_PREDICT", frame.drop(columns="benign"), "benign", "b", framework="tensorflow", zips=zips
    )
    assert predicted.predictions["t0"].to_pandas().between(0, 1).all()


@needs_tensorflow
@pytest.mark.filterwarnings("ignore")
def test_keras_without_scripts(jobs: Jobs, iris: pd.DataFrame) -> None:
    """Saved by us as a SavedModel; a softmax is its likeliest class."""
    train = """
import keras
def model_train(x_train, y_train, x_test, y_test):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(3, "softmax")])
    model.compile(keras.optimizers.Adam(0.05), "sparse_categorical_crossentropy")
    model.fit(x_train.to_numpy("float32"), y_train.to_numpy(), epochs=20, verbose=0)
    return model
"""
    codes = iris["species"].map({"setosa": 0, "versicolor": 1, "virginica": 2}).astype("int64")
    frame = iris.iloc[:, :4].assign(y=codes)
    zips: dict[str, Any] = {"pipeline": {"pipeline/train.py": train}}
    trained = jobs.run("TRAIN", frame, "y", "m", framework="tensorflow", zips=zips)
    assert trained.metrics["accuracy"] > 0.8
    zips = {"model": trained.out / "model.zip"}
    predicted = jobs.run("BATCH_PREDICT", frame.drop(columns="y"), "y", "m", framework="tensorflow", zips=zips)
    assert np.mean(predicted.predictions["t0"].to_numpy() == codes) > 0.8
