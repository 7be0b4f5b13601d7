"""The user's own pipelines: what they get, and what they may give back."""

from __future__ import annotations

import zipfile
from typing import Any

import pandas as pd
import pytest

from tests.unit.steps.jobs import Jobs
from tests.unit.steps.uploads import GOOD, source, train


def test_a_good_one(jobs: Jobs, cancer: pd.DataFrame) -> None:
    result = train(jobs, cancer, GOOD)
    assert result.metrics["acc"] > 0.9
    held = result.json["hold_out"]
    assert held == {"method": "last", "rows_train": 456, "rows_test": 113, "hash": held["hash"]}
    assert any("the last 113 of 569 rows" in note for note in result.json["notes"])
    with zipfile.ZipFile(result.out / "model.zip") as bundle:
        assert "model/model.joblib" in bundle.namelist()
        assert {info.compress_type for info in bundle.infolist()} == {zipfile.ZIP_STORED}


def test_the_model_alone_is_measured_by_us(jobs: Jobs, cancer: pd.DataFrame) -> None:
    result = train(jobs, cancer, GOOD.replace("return model,", "return model #"))
    assert set(result.metrics) == {"precision", "recall", "f1", "auc", "accuracy", "log_loss"}
    assert result.metrics["auc"] > 0.9
    assert result.json["positive_label"] == 1


def test_what_the_function_gets(jobs: Jobs, flights: pd.DataFrame) -> None:
    code = """
    import pandas as pd
    from sklearn.dummy import DummyClassifier

    def model_train(x_train, y_train, x_test, y_test):
        for frame in (x_train, y_train, x_test, y_test):
            assert type(frame) is pd.DataFrame
            assert list(frame.index) == list(range(len(frame)))
        print(list(x_train.columns), list(y_train.columns))
        print({n: str(t) for n, t in x_train.dtypes.items()}, str(y_train.dtypes.iloc[0]))
        x_train["more"] = 1
        return DummyClassifier().fit(x_train.drop(columns="more"), y_train.iloc[:, 0]), []
    """
    result = train(jobs, flights, code, "late")
    assert result.json["metrics"] == []


@pytest.mark.parametrize(
    ("signature", "expected"),
    [
        ("x, y, a, b", 0.0),
        ("x, y, a, b, hyperparameters", 7.0),
        ("x, y, a, b, **rest", 7.0),
        ("x, y, a, b, hyperparameters=None", 7.0),
    ],
)
def test_hyperparameters_go_where_they_are_asked_for(
    jobs: Jobs, cancer: pd.DataFrame, signature: str, expected: float
) -> None:
    code = f"""
    from sklearn.dummy import DummyClassifier
    def model_train({signature}):
        given = locals().get("hyperparameters") or locals().get("rest", {{}}).get("hyperparameters") or {{}}
        return DummyClassifier().fit(x, y), {{"depth": given.get("depth", 0)}}
    """
    assert train(jobs, cancer, code, hyperparameters={"depth": 7}).metrics == {"depth": expected}


def test_model_save_evaluate_and_predict_share_a_directory(jobs: Jobs, cancer: pd.DataFrame) -> None:
    """A model of the user's own kind, which no framework knows."""
    files: dict[str, Any] = {
        "pipeline/train.py": source(
            """
            import json, pathlib
            def model_train(x_train, y_train, x_test, y_test):
                return {"limit": float(x_train["mean radius"].mean())}
            def model_save(model, model_path):
                (pathlib.Path(model_path) / "rule.json").write_text(json.dumps(model))
            """
        ),
        "pipeline/evaluate.py": source(
            """
            from batch_predict import model_predict
            def model_evaluate(model_path, metrics, x_test, y_test):
                print("asked for", metrics)
                right = (model_predict(model_path, x_test)["benign"].values == y_test["benign"].values).mean()
                return str([{"objective": "share right", "score": right}])
            """
        ),
        "pipeline/batch_predict.py": source(
            """
            import json, pathlib
            import pandas as pd
            def model_predict(model_path, x_test):
                limit = json.loads((pathlib.Path(model_path) / "rule.json").read_text())["limit"]
                return pd.DataFrame({"benign": (x_test["mean radius"] < limit).astype(int)})
            """
        ),
        "notes.txt": "extra files are never refused",
    }
    trained = jobs.run("TRAIN", cancer, "benign", "b", zips={"pipeline": files})
    assert trained.metrics["share right"] > 0.8
    assert any("model_save wrote none of" in note for note in trained.json["notes"])
    zips = {"pipeline": files, "model": trained.out / "model.zip"}
    evaluated = jobs.run("EVALUATE", cancer, "benign", "b", zips=zips, objectives=[["share right"]])
    assert evaluated.metrics["share right"] > 0.8
    predicted = jobs.run("BATCH_PREDICT", cancer.drop(columns="benign"), "benign", "b", zips=zips)
    assert set(predicted.predictions["t0"].to_pylist()) == {0, 1}


@pytest.mark.parametrize(
    "metrics",
    [
        '[{"objective": "f1", "score": 0.5}]',
        '[{" objective ": " f1", "score": "0.5"}]',
        '\'[{"objective": "f1", "score": 0.5}]\'',
        "\"[{'objective': 'f1', 'score': np.float64(0.5)}]\"",
        '{"objective": "f1", "score": 0.5}',
        '{"f1": 0.5}',
        '[{"objective": "f1", "score": np.float32(0.5)}]',
    ],
)
def test_metrics_in_every_form(jobs: Jobs, cancer: pd.DataFrame, metrics: str) -> None:
    code = f"""
    import numpy as np
    from sklearn.dummy import DummyClassifier
    def model_train(x, y, a, b):
        return DummyClassifier().fit(x, y), {metrics}
    """
    assert train(jobs, cancer, code).metrics == {"f1": 0.5}


@pytest.mark.parametrize("score", ["float('nan')", "float('-inf')", "'nan'", "None", "np.nan"])
def test_scores_that_are_no_number_are_null(jobs: Jobs, cancer: pd.DataFrame, score: str) -> None:
    code = f"""
    import numpy as np
    from sklearn.dummy import DummyClassifier
    def model_train(x, y, a, b):
        metrics = [{{"objective": "f1", "score": {score}}}]
        return DummyClassifier().fit(x, y), metrics if len(x) % 2 else str(metrics)
    """
    for rows in (400, 401):
        assert train(jobs, cancer.iloc[:rows], code).metrics == {"f1": None}


def test_a_class_of_train_py_loads_again(jobs: Jobs, cancer: pd.DataFrame) -> None:
    """The model bundle takes the pipeline's code along."""
    code = """
    class Rule:
        def fit(self, x):
            self.limit = x["mean radius"].mean()
            return self
        def predict(self, x):
            return (x["mean radius"] < self.limit).astype(int)
    def model_train(x, y, a, b):
        return Rule().fit(x), []
    """
    trained = train(jobs, cancer, code)
    zips = {"model": trained.out / "model.zip"}
    result = jobs.run("EVALUATE", cancer, "benign", "b", zips=zips, objectives=[["accuracy"]])
    assert result.metrics["accuracy"] > 0.8


def test_modules_and_wheels(jobs: Jobs, cancer: pd.DataFrame) -> None:
    from tests.fixtures.bundles import zipped

    wheel = zipped(
        {
            "tinywheel/__init__.py": "LABEL = 1",
            "tinywheel-1.2.dist-info/METADATA": "Metadata-Version: 2.1\nName: tinywheel\nVersion: 1.2\n",
        }
    )
    modules = zipped(
        {
            "helper.py": "from modules import other\nVALUE = other.VALUE",
            "other.py": "VALUE = 0.25",
            "tinywheel-1.2-py3-none-any.whl": wheel,
        }
    )
    code = """
    from modules import helper
    import tinywheel
    from sklearn.dummy import DummyClassifier
    def model_train(x, y, a, b):
        from modules import other  # late, inside the call
        model = DummyClassifier(strategy="constant", constant=tinywheel.LABEL).fit(x, y)
        return model, {"helper": helper.VALUE, "other": other.VALUE}
    """
    files = {"modules.zip": modules, "requirements.txt": "tinywheel==1.2  # ours\nscikit-learn>=1\n"}
    result = train(jobs, cancer, code, files=files)
    assert result.metrics == {"helper": 0.25, "other": 0.25}
    folder = zipped({"modules/helper.py": "VALUE = 1", "modules/other.py": "VALUE = 2"})
    code = code.replace("import tinywheel", "").replace("tinywheel.LABEL", "1")
    assert train(jobs, cancer, code, files={"modules.zip": folder}).metrics == {"helper": 1, "other": 2}


def test_nothing_of_a_bundle_stays_behind(jobs: Jobs, cancer: pd.DataFrame) -> None:
    import sys

    before = list(sys.path)
    train(jobs, cancer, GOOD + "\nimport sibling\n", files={"pipeline/sibling.py": ""}).json  # noqa: B018
    assert sys.path == before
    assert not {"train", "sibling", "modules"} & set(sys.modules)


def test_two_targets(jobs: Jobs, diabetes: pd.DataFrame) -> None:
    code = """
    from sklearn.linear_model import LinearRegression
    def model_train(x, y, a, b):
        return LinearRegression().fit(x, y)
    """
    frame = diabetes.assign(twice=diabetes["progress"] * 2)
    trained = jobs.run(
        "TRAIN", frame, ["progress", "twice"], "r", zips={"pipeline": {"pipeline/train.py": source(code)}}
    )
    assert trained.metrics["twice.rmse"] == pytest.approx(2 * trained.metrics["progress.rmse"])
    zips = {"model": trained.out / "model.zip"}
    features = frame.drop(columns=["progress", "twice"])
    predicted = jobs.run("BATCH_PREDICT", features, ["progress", "twice"], "r", zips=zips).predictions
    assert predicted.column_names == ["t0", "t1"]
    evaluated = jobs.run("EVALUATE", frame, ["progress", "twice"], "r", zips=zips, objectives=[["mae"], ["r2"]])
    assert list(evaluated.metrics) == ["progress.mae", "twice.r2"]
