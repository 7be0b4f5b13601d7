"""The user's own pipelines: what they may give back, and how their mistakes are told."""

from __future__ import annotations

import textwrap
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.unit.steps.jobs import Jobs, Result

GOOD = """
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

def model_train(x_train, y_train, x_test, y_test):
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(x_train, y_train.iloc[:, 0])
    return model, [{"objective": "acc", "score": model.score(x_test, y_test.iloc[:, 0])}]
"""


def source(code: str) -> str:
    return textwrap.dedent(code)


def train(
    jobs: Jobs, frame: pd.DataFrame, code: str, target: str = "benign", problem: str = "b", **spec: Any
) -> Result:
    files = {"pipeline/train.py": source(code), **spec.pop("files", {})}
    zips = {"pipeline": files, **spec.pop("zips", {})}
    return jobs.run("TRAIN", frame, target, problem, zips=zips, **spec)


def test_a_good_one(jobs: Jobs, cancer: pd.DataFrame) -> None:
    result = train(jobs, cancer, GOOD)
    assert result.metrics["acc"] > 0.9
    assert result.json["hold_out"] == {"method": "last", "rows_train": 456, "rows_test": 113}
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
    from tests.unit.steps.jobs import zipped

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


BAD = {
    "a syntax error": ("def model_train(:\n", "SyntaxError", "invalid syntax"),
    "no function": ("x = 1\n", "BadBundle", "pipeline/train.py has no function model_train"),
    "an error at import": ("import no_such_module\n", "ModuleNotFoundError", "no_such_module"),
    "an exit at import": ("import sys\nsys.exit(3)\n", "CalledExit", "pipeline/train.py called sys.exit(3)"),
    "raises": ("def model_train(a, b, c, d):\n    raise ValueError('too hot')\n", "ValueError", "too hot"),
    "exits": (
        "import sys\ndef model_train(a, b, c, d):\n    sys.exit(0)\n",
        "CalledExit",
        "pipeline/train.py called sys.exit(0)",
    ),
    "interrupts": ("def model_train(a, b, c, d):\n    raise KeyboardInterrupt\n", "KeyboardInterrupt", "interrupted"),
    "has no memory": ("def model_train(a, b, c, d):\n    raise MemoryError\n", "MemoryError", "out of memory"),
    "recurses": ("def f():\n    return f()\ndef model_train(a, b, c, d):\n    f()\n", "RecursionError", "recursion"),
    "a missing key": ("def model_train(a, b, c, d):\n    a['nope']\n", "KeyError", "key 'nope' not found"),
    "wrong arguments": ("def model_train(a):\n    pass\n", "TypeError", "model_train()"),
    "gives None": ("def model_train(a, b, c, d):\n    pass\n", "BadReturn", "no model (None)"),
    "gives a text": ("def model_train(a, b, c, d):\n    return 'done'\n", "BadReturn", "gave a str"),
    "gives three": ("def model_train(a, b, c, d):\n    return 1, 2, 3\n", "BadReturn", "tuple of 3"),
    "gives a class": (
        "from sklearn.dummy import DummyClassifier\ndef model_train(a, b, c, d):\n    return DummyClassifier\n",
        "BadReturn",
        "no sklearn model",
    ),
    "a message of NULs": (
        "def model_train(a, b, c, d):\n    raise ValueError('a\\x00b\\udc80')\n",
        "ValueError",
        "ab?",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_train_py_is_told(jobs: Jobs, cancer: pd.DataFrame, name: str) -> None:
    code, kind, message = BAD[name]
    result = train(jobs, cancer, code)
    assert result.error["type"] == kind
    assert message in result.error["message"]
    assert not (result.out / "model.zip").exists()


def test_the_traceback_is_the_users(jobs: Jobs, cancer: pd.DataFrame) -> None:
    code = """
    import helper
    def model_train(a, b, c, d):
        try:
            helper.check(a)
        except ValueError as error:
            raise RuntimeError("cannot train") from error
    """
    helper = "import pandas as pd\ndef check(frame):\n    pd.to_numeric('abc')\n    return 1\n"
    error = train(jobs, cancer, code, files={"pipeline/helper.py": helper}).error
    assert error["step"] == "train"
    assert error["traceback"][0] == 'pipeline/train.py:7 in model_train: raise RuntimeError("cannot train") from error'
    assert error["traceback"][1].startswith("caused by ValueError: Unable to parse")
    assert error["traceback"][2:] == [
        "pipeline/train.py:5 in model_train: helper.check(a)",
        "pipeline/helper.py:3 in check: pd.to_numeric('abc')",
    ]


def test_a_syntax_error_says_where(jobs: Jobs, cancer: pd.DataFrame) -> None:
    error = train(jobs, cancer, "\n\nx = (1,\ny = 2\n").error
    assert error["traceback"] == ["pipeline/train.py:3: x = (1,"]


def test_a_deep_recursion_has_a_short_traceback(jobs: Jobs, cancer: pd.DataFrame) -> None:
    traceback = train(jobs, cancer, BAD["recurses"][0]).error["traceback"]
    assert len(traceback) == 51
    assert "frames left out" in traceback[25]


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ("42", "gave a int as metrics"),
        ("'accuracy is fine'", "no list of metrics"),
        ("[1, 2]", "gave 1 among the metrics"),
        ("[{'objective': 'f1'}]", "among the metrics"),
        ("[{'objective': 'f1', 'score': 'high'}]", "score 'high' for f1"),
    ],
)
def test_wrong_metrics_are_told(jobs: Jobs, cancer: pd.DataFrame, metrics: str, message: str) -> None:
    code = f"""
    from sklearn.dummy import DummyClassifier
    def model_train(x, y, a, b):
        return DummyClassifier().fit(x, y), {metrics}
    """
    error = train(jobs, cancer, code).error
    assert error["type"] == "BadReturn"
    assert message in error["message"]


def test_model_save_that_writes_nothing(jobs: Jobs, cancer: pd.DataFrame) -> None:
    error = train(jobs, cancer, GOOD + "\ndef model_save(model, model_path):\n    pass\n").error
    assert error["step"] == "save"
    assert "wrote nothing" in error["message"]


def test_links_in_the_model_directory_stay_behind(jobs: Jobs, cancer: pd.DataFrame, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("canary")
    code = (
        GOOD
        + f"""
def model_save(model, model_path):
    import os, joblib
    joblib.dump(model, os.path.join(model_path, "model.joblib"))
    os.symlink({str(secret)!r}, os.path.join(model_path, "link"))
"""
    )
    result = train(jobs, cancer, code)
    with zipfile.ZipFile(result.out / "model.zip") as bundle:
        assert sorted(n for n in bundle.namelist() if n.startswith("model/")) == ["model/model.joblib"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"pipeline/evaluate.py": ""}, "has no pipeline/train.py"),
        ({"train.py": "x = 1"}, "has no pipeline/train.py"),
        ({"pipeline/train.py": GOOD, "../evil.py": ""}, "does not stay inside"),
        ({"pipeline/train.py": GOOD, "/tmp/evil.py": ""}, "does not stay inside"),
        ({"pipeline/train.py": GOOD, "modules.zip": "no zip"}, "modules.zip is not a ZIP file"),
        ({"pipeline/train.py": GOOD, "requirements.txt": "no-such-package==1\n"}, "no-such-package==1 (not installed)"),
        ({"pipeline/train.py": GOOD, "requirements.txt": "pandas<1\n"}, "pandas<1 (installed: "),
        ({"pipeline/train.py": GOOD, "requirements.txt": "--index-url http://evil\n"}, "is not a package's name"),
    ],
)
def test_a_bad_bundle_is_told(jobs: Jobs, cancer: pd.DataFrame, files: dict[str, Any], message: str) -> None:
    result = jobs.run("TRAIN", cancer, "benign", "b", zips={"pipeline": files})
    assert message in result.error["message"]
    assert result.error["step"] == "prepare"


def test_not_a_zip(jobs: Jobs, cancer: pd.DataFrame) -> None:
    error = jobs.run("TRAIN", cancer, "benign", "b", zips={"pipeline": b"PK but not really"}).error
    assert error["type"] == "BadBundle"


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("x_test.iloc[:3]", "gave 3 rows for 569"),
        ("None", "gave a NoneType"),
        ("pd.DataFrame(index=x_test.index)", "without columns"),
        ("x_test[['mean area', 'mean radius']].assign(s='a')", "3 predictions per row for 1 targets"),
        ("1 / 0", "division by zero"),
    ],
)
def test_a_bad_batch_predict_is_told(
    jobs: Jobs, diabetes: pd.DataFrame, cancer: pd.DataFrame, returned: str, message: str
) -> None:
    trained = train(jobs, cancer, GOOD)
    script = f"import pandas as pd\ndef model_predict(model_path, x_test):\n    return {returned}\n"
    zips = {
        "pipeline": {"pipeline/train.py": GOOD, "pipeline/batch_predict.py": script},
        "model": trained.out / "model.zip",
    }
    problem = "r" if "3 predictions" in message else "b"
    result = jobs.run("BATCH_PREDICT", cancer.drop(columns="benign"), "benign", problem, zips=zips)
    assert message in result.error["message"]
    assert result.error["step"] == "predict"
    assert not (result.out / "predictions.arrow").exists()


def test_one_class_and_no_rows(jobs: Jobs, cancer: pd.DataFrame) -> None:
    assert train(jobs, cancer.assign(benign=1), GOOD).error["type"] == "OneClass"
    assert train(jobs, cancer.iloc[:0], GOOD).error["type"] == "NoRows"


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
