"""The user's own pipelines when something is wrong with them: how it is told."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.unit.steps.jobs import Jobs
from tests.unit.steps.uploads import GOOD, train

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
