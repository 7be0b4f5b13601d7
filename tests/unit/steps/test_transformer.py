"""The data-preparation bundle: split, the training's transforms, and what stands around prediction."""

from __future__ import annotations

import textwrap
import zipfile
from typing import Any

import pandas as pd
import pytest

from tests.fixtures.bundles import zipped
from tests.unit.steps.jobs import Jobs, Result

TRAINING = """
import json, pathlib
from shared import scale
def split(self, df):
    assert self is None
    return df[df.index % 4 != 0], df[df.index % 4 == 0]
def transform_training_data(df, data_path):
    middle = df.drop(columns="progress").mean().to_dict()
    pathlib.Path(data_path, "middle.json").write_text(json.dumps(middle))
    return scale(df, middle)
def transform_test_data(df, data_path):
    return scale(df, json.loads(pathlib.Path(data_path, "middle.json").read_text()))
"""
SHARED = """
def scale(df, middle):
    df = df.copy()
    for name, value in middle.items():
        df[name] = (df[name] - value) * 100
    if "progress" in df.columns:
        df["progress"] = df["progress"] / 1000
    return df
"""
ONLINE = """
import json, pathlib
from shared import scale
def preprocess(inputs, data_path):
    middle = json.loads(pathlib.Path(data_path, "middle.json").read_text())
    return {"instances": scale(inputs, middle).values.tolist()}
def postprocess(inputs, data_path):
    return {"predictions": [value * 1000 for value in inputs["predictions"]]}
"""
BATCH = (
    ONLINE
    + """
def batch_preprocess(df, data_path):
    return scale(df, json.loads(pathlib.Path(data_path, "middle.json").read_text()))
def batch_postprocess(df, data_path):
    assert list(df.columns) == ["progress"]
    return df * 1000
"""
)
PIPELINE = """
from sklearn.linear_model import LinearRegression
def model_train(x_train, y_train, x_test, y_test):
    assert y_train.iloc[:, 0].max() < 1
    assert list(x_train.columns) == list(x_test.columns)
    return LinearRegression().fit(x_train, y_train.iloc[:, 0])
"""


def bundle(prediction: str = ONLINE, training: str = TRAINING) -> dict[str, Any]:
    files: dict[str, Any] = {"readme.txt": "kept"}
    if training:
        files |= {"training/data_preparation_training.py": training, "training/shared.py": SHARED}
    if prediction:
        files |= {"prediction/data_preparation_prediction.py": prediction, "prediction/shared.py": SHARED}
    return files


def train(
    jobs: Jobs, frame: pd.DataFrame, transformer: dict[str, Any], pipeline: str = PIPELINE, **files: str
) -> Result:
    zips: dict[str, Any] = {"pipeline": {"pipeline/train.py": pipeline, **files}, "transformer": transformer}
    return jobs.run("TRAIN", frame, "progress", "r", zips=zips)


@pytest.mark.parametrize("prediction", [ONLINE, BATCH], ids=["online functions", "batch functions"])
def test_the_whole_way(jobs: Jobs, diabetes: pd.DataFrame, prediction: str) -> None:
    trained = train(jobs, diabetes, bundle(prediction))
    held = trained.json["hold_out"]
    assert held == {"method": "split", "rows_train": 331, "rows_test": 111, "hash": held["hash"]}
    assert not trained.json["notes"]
    assert 40 < trained.metrics["rmse"] < 70, "metrics are of the answer after postprocessing"
    with zipfile.ZipFile(trained.out / "transformer.zip") as content:
        assert {"data/middle.json", "readme.txt"} <= set(content.namelist())

    zips = {"model": trained.out / "model.zip", "transformer": trained.out / "transformer.zip"}
    evaluated = jobs.run("EVALUATE", diabetes, "progress", "r", zips=zips, objectives=[["rmse"]])
    assert 40 < evaluated.metrics["rmse"] < 70
    predicted = jobs.run("BATCH_PREDICT", diabetes.drop(columns="progress"), "progress", "r", zips=zips, batch=50)
    values = predicted.predictions["t0"].to_pandas()
    assert values.between(0, 400).all()
    assert ((values - diabetes["progress"]) ** 2).mean() ** 0.5 == pytest.approx(evaluated.metrics["rmse"])


def test_online_and_batch_functions_agree(jobs: Jobs, diabetes: pd.DataFrame) -> None:
    results = []
    for prediction in (ONLINE, BATCH):
        trained = train(jobs, diabetes, bundle(prediction))
        zips = {"model": trained.out / "model.zip", "transformer": trained.out / "transformer.zip"}
        predicted = jobs.run("BATCH_PREDICT", diabetes.drop(columns="progress"), "progress", "r", zips=zips)
        results.append(predicted.predictions["t0"].to_pylist())
    assert results[0] == pytest.approx(results[1])


def test_the_training_transform_serves_for_the_test(jobs: Jobs, diabetes: pd.DataFrame) -> None:
    training = """
calls = []
def transform_training_data(df, data_path):
    calls.append(len(df))
    print("transformed", calls)
    return df.assign(progress=df["progress"] / 1000)
"""
    trained = train(jobs, diabetes, bundle("", training))
    assert trained.json["hold_out"]["method"] == "last"
    assert trained.metrics["rmse"] < 1


def test_user_scripts_get_transformed_rows(jobs: Jobs, diabetes: pd.DataFrame) -> None:
    evaluate = """
def model_evaluate(model_path, metrics, x_test, y_test):
    return [{"objective": "largest", "score": y_test["progress"].max()}, {"objective": "rows", "score": len(x_test)}]
"""
    predict = """
import pandas as pd
def model_predict(model_path, x_test):
    assert abs(x_test["age"].mean()) > 1 or abs(x_test["age"].std()) > 1, "scaled"
    return pd.DataFrame({"progress": [0.2] * len(x_test)})
"""
    scripts: dict[str, Any] = {
        "pipeline/train.py": PIPELINE,
        "pipeline/evaluate.py": evaluate,
        "pipeline/batch_predict.py": predict,
    }
    trained = jobs.run("TRAIN", diabetes, "progress", "r", zips={"pipeline": scripts, "transformer": bundle()})
    assert trained.metrics["rows"] == 111
    assert trained.metrics["largest"] < 1
    zips = {"pipeline": scripts, "model": trained.out / "model.zip", "transformer": trained.out / "transformer.zip"}
    evaluated = jobs.run("EVALUATE", diabetes, "progress", "r", zips=zips)
    assert evaluated.metrics["rows"] == len(diabetes)
    assert evaluated.metrics["largest"] < 1
    predicted = jobs.run("BATCH_PREDICT", diabetes.drop(columns="progress"), "progress", "r", zips=zips)
    assert set(predicted.predictions["t0"].to_pylist()) == {200.0}


def test_each_bundle_sees_its_own_modules(jobs: Jobs, diabetes: pd.DataFrame) -> None:
    pipeline = "from modules import settings\nfrom shared import NAME\n" + PIPELINE.replace(
        "return Linear",
        "from modules import late\n    assert (settings.NAME, NAME, late.NAME) == ('p',) * 3\n    return Linear",
    )
    training = "from modules import settings\n" + TRAINING.replace(
        "    assert self is None", "    from modules import late\n    assert (settings.NAME, late.NAME) == ('t', 't')"
    )

    def modules(name: str) -> bytes:
        return zipped({"settings.py": f"NAME = {name!r}", "late.py": f"NAME = {name!r}"})

    transformer = {**bundle(training=training), "modules.zip": modules("t")}
    files: dict[str, Any] = {"pipeline/shared.py": "NAME = 'p'", "modules.zip": modules("p")}
    train(jobs, diabetes, transformer, pipeline, **files).json  # noqa: B018 -- asserts success


@pytest.mark.parametrize(
    ("instances", "width"),
    [
        ('inputs.to_dict("records")', 10),
        ("inputs.values.tolist()", 10),
        ("inputs.to_numpy()", 10),
        ('inputs["bmi"].tolist()', 1),
    ],
)
def test_instances_in_every_form(jobs: Jobs, diabetes: pd.DataFrame, instances: str, width: int) -> None:
    prediction = f'def preprocess(inputs, data_path):\n    return {{"instances": {instances}}}\n'
    columns = 'x_train[["bmi"]].to_numpy()' if width == 1 else "x_train"
    pipeline = f"""
from sklearn.linear_model import LinearRegression
def model_train(x_train, y_train, x_test, y_test):
    return LinearRegression().fit({columns}, y_train.iloc[:, 0])
"""
    result = train(jobs, diabetes, bundle(prediction, ""), pipeline)
    assert result.metrics["r2"] > 0.2


def test_labels_renamed_by_postprocess(jobs: Jobs, cancer: pd.DataFrame) -> None:
    """The model knows 0 and 1, the data says good and bad."""
    frame = cancer.assign(benign=pd.Series(["good" if b else "bad" for b in cancer["benign"]], dtype=object))
    training = """
def transform_training_data(df, data_path):
    return df.assign(benign=(df["benign"] == "good").astype(int))
"""
    prediction = """
def preprocess(inputs, data_path):
    return {"instances": inputs.values.tolist()}
def postprocess(inputs, data_path):
    return {"predictions": ["good" if value else "bad" for value in inputs["predictions"]]}
"""
    pipeline = """
from sklearn.ensemble import RandomForestClassifier
def model_train(x_train, y_train, x_test, y_test):
    return RandomForestClassifier(10, random_state=0).fit(x_train, y_train.iloc[:, 0])
"""
    zips: dict[str, Any] = {"pipeline": {"pipeline/train.py": pipeline}, "transformer": bundle(prediction, training)}
    result = jobs.run("TRAIN", frame, "benign", "b", zips=zips)
    assert result.json["positive_label"] == "good"
    assert result.metrics["accuracy"] > 0.9
    zips = {"model": result.out / "model.zip", "transformer": result.out / "transformer.zip"}
    predicted = jobs.run("BATCH_PREDICT", frame.drop(columns="benign"), "benign", "b", zips=zips)
    assert set(predicted.predictions["t0"].to_pylist()) == {"good", "bad"}


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ("x = 1", "has none of split, transform_training_data"),
        ("def split(df):\n    return df", "split gave a DataFrame"),
        ("def split(df):\n    return df, 3", "split gave a int, not a DataFrame"),
        ("def transform_training_data(df, data_path):\n    return None", "gave a NoneType, not a DataFrame"),
        ("def transform_training_data(df, data_path):\n    return df[['age']]", "without the target progress"),
        ("def transform_training_data(df, data_path):\n    return df.iloc[:0]", "no rows are left to train on"),
        ("def split(df):\n    raise OSError('no')", "no"),
    ],
)
def test_a_bad_training_preparation_is_told(jobs: Jobs, diabetes: pd.DataFrame, training: str, message: str) -> None:
    error = train(jobs, diabetes, bundle("", training)).error
    assert message in error["message"]
    assert error["step"] == "prepare"


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        ("def preprocess(inputs, data_path):\n    return [1]", "preprocess gave a list"),
        ("def preprocess(inputs, data_path):\n    return {'rows': []}", "the keys ['rows']"),
        ("def preprocess(inputs, data_path):\n    return {'instances': [[1], [1, 2]]}", "different shapes"),
        ("def batch_preprocess(df, data_path):\n    return {}", "batch_preprocess gave a dict"),
        ("def batch_preprocess(df, data_path):\n    return df.iloc[:5]", "answer of shape (5,) for 442 rows"),
        ("def postprocess(inputs, data_path):\n    return {}", "postprocess gave"),
        ("def postprocess(inputs, data_path):\n    return {'predictions': [1]}", "postprocess gave 1 rows for 442"),
        ("def batch_postprocess(df, data_path):\n    return [1]", "batch_postprocess gave a list"),
    ],
)
def test_a_bad_prediction_preparation_is_told(
    jobs: Jobs, diabetes: pd.DataFrame, prediction: str, message: str
) -> None:
    pipeline = textwrap.dedent(PIPELINE.replace("assert y_train.iloc[:, 0].max() < 1", "pass")).replace(
        "return LinearRegression()", "return __import__('sklearn.linear_model').linear_model.LinearRegression()"
    )
    trained = jobs.run("TRAIN", diabetes, "progress", "r", zips={"pipeline": {"pipeline/train.py": pipeline}})
    zips: dict[str, Any] = {"model": trained.out / "model.zip", "transformer": bundle(prediction, "")}
    error = jobs.run("BATCH_PREDICT", diabetes.drop(columns="progress"), "progress", "r", zips=zips).error
    assert message in error["message"]
    assert error["step"] == "predict"
