"""The step that measures the new version and the active one on the same held-out rows, for ``settings.promote``."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.tree import DecisionTreeClassifier

from kwdbml.steps.run import run
from tests.fixtures.bundles import zipped
from tests.unit.steps.jobs import SILENT, Jobs, Result
from tests.unit.steps.uploads import GOOD

Files = dict[str, str | bytes]
ACTIVE = {"version": 3, "framework": "sklearn", "user_code": True, "problem": None}
#: A model of a class that the bundle brings, which breaks or leaves traces.
MODULE = """
import os, signal, sys, numpy as np
class Model:
    def predict(self, x):
        {body}
        return np.ones(len(x), dtype="int64")
"""


def held(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = result.json["hold_out"]
    return found


def scores(found: dict[str, Any]) -> dict[str, float]:
    return {metric["objective"]: metric["score"] for metric in found["metrics"]}


def compare(
    jobs: Jobs, frame: pd.DataFrame, active: Files | bytes, *, pipeline: Files | None = None, **rest: Any
) -> Result:
    """Train on the frame and compare with an active version of these files."""
    zips: dict[str, Any] = {"active-model": active, **rest.pop("zips", {})}
    if pipeline is None:
        rest = {"algorithm": "logistic_regression"} | rest
    else:
        zips["pipeline"] = pipeline
    return jobs.run("TRAIN", frame, "benign", "b", zips=zips, **({"compare": ACTIVE} | rest))


def dumped(model: Any) -> Files:
    return {"model/model.pkl": pickle.dumps(model)}


def weak(frame: pd.DataFrame) -> Files:
    return dumped(DummyClassifier(strategy="most_frequent").fit(frame.drop(columns="benign"), frame["benign"]))


def scripted(body: str) -> Files:
    """A model bundle whose class does this when it predicts; pickled by name, as it lies in modules.zip."""
    by_name = b"cmodules.brought\nModel\n)\x81."
    return {"model/model.pkl": by_name, "modules.zip": zipped({"brought.py": MODULE.format(body=body)})}


def test_both_are_measured_on_the_same_rows(jobs: Jobs, cancer: pd.DataFrame) -> None:
    result = compare(jobs, cancer, weak(cancer))
    found = held(result)
    assert scores(found)["accuracy"] > scores(found["active"])["accuracy"] > 0.5
    assert set(scores(found)) == {"precision", "recall", "f1", "auc", "accuracy", "log_loss"}
    assert "problem" not in found["active"]
    # a constant answer is right as often as its label is among the rows that were held out
    alone = jobs.run("TRAIN", cancer, "benign", "b", algorithm="logistic_regression")
    assert held(alone)["hash"] == found["hash"]
    assert held(alone)["metrics"] == result.json["metrics"] == alone.json["metrics"]
    assert result.metrics == pytest.approx(scores(found))


def test_the_same_model_has_the_same_scores(jobs: Jobs, cancer: pd.DataFrame) -> None:
    trained = jobs.run("TRAIN", cancer, "benign", "b", algorithm="logistic_regression")
    found = held(compare(jobs, cancer, (trained.out / "model.zip").read_bytes()))
    assert found["metrics"] == found["active"]["metrics"]


def test_nothing_is_measured_unless_asked(jobs: Jobs, cancer: pd.DataFrame) -> None:
    found = held(compare(jobs, cancer, weak(cancer), compare=None))
    assert "active" not in found
    assert len(found["hash"]) == 64


def test_without_an_active_version_the_new_one_has_its_scores(jobs: Jobs, cancer: pd.DataFrame) -> None:
    result = jobs.run("TRAIN", cancer, "benign", "b", algorithm="logistic_regression", compare={})
    assert scores(held(result))["auc"] > 0.9
    assert "active" not in held(result)


def test_the_hash_is_that_of_the_rows(jobs: Jobs, cancer: pd.DataFrame) -> None:
    def hash_of(frame: pd.DataFrame, **rest: Any) -> str:
        found = jobs.run("TRAIN", frame, "benign", "b", **({"algorithm": "random_forest"} | rest))
        return str(held(found)["hash"])

    shuffled = cancer.sample(frac=1, random_state=3).reset_index(drop=True)
    one = hash_of(cancer)
    assert hash_of(shuffled[sorted(shuffled.columns)], algorithm="logistic_regression") == one
    other = cancer.assign(**{"mean radius": cancer["mean radius"] + 1e-9})
    assert hash_of(other) != one
    last = {"algorithm": None, "zips": {"pipeline": {"pipeline/train.py": GOOD}}}
    assert hash_of(cancer, **last) not in (one, hash_of(shuffled, **last))
    assert len({one, hashlib.sha256(b"").hexdigest()}) == 2


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("raise ValueError('no such luck')", "ValueError: no such luck"),
        ("sys.exit(3)", "CalledExit: "),
        ("os.kill(os.getpid(), signal.SIGKILL)", "its code ended the process (signal 9)"),
        ("os._exit(7)", "its code ended the process (exit code 7)"),
        ("os._exit(0)", "No such file"),
        ("return np.ones(3)", "BadReturn: "),
    ],
)
def test_an_active_version_that_fails_is_a_reason(jobs: Jobs, cancer: pd.DataFrame, body: str, problem: str) -> None:
    result = compare(jobs, cancer, scripted(body))
    assert problem in held(result)["active"]["problem"]
    assert scores(held(result))["accuracy"] > 0.9
    assert "metrics" not in held(result)["active"]
    assert (result.out / "model.zip").is_file()


def test_its_harmless_twin(jobs: Jobs, cancer: pd.DataFrame) -> None:
    found = held(compare(jobs, cancer, scripted("pass")))
    assert 0.5 < scores(found["active"])["accuracy"] < 0.9


@pytest.mark.parametrize(
    ("active", "framework", "problem"),
    [
        ({"readme.txt": "no model"}, "sklearn", "BadBundle: the model bundle has no directory model/"),
        ({"model/model.pkl": b"garbage"}, "sklearn", "cannot be read as a model of sklearn"),
        ({"model/model.json": b"{}"}, "xgboost", "model/model.json"),
        (b"no zip", "sklearn", "BadBundle: "),
        ({"model/model.pkl": b"x", "requirements.txt": "no-such-package-here==1\n"}, "sklearn", "MissingRequirement: "),
    ],
)
def test_what_cannot_be_loaded_is_a_reason(
    jobs: Jobs, cancer: pd.DataFrame, active: Files | bytes, framework: str, problem: str
) -> None:
    result = compare(jobs, cancer, active, compare=ACTIVE | {"framework": framework})
    assert problem in held(result)["active"]["problem"]
    assert held(result)["metrics"]


def test_it_has_packages_of_its_own(jobs: Jobs, cancer: pd.DataFrame) -> None:
    """What the active version asks for lies beside what the new one has, in another version."""

    def place(workspace: Path, name: str, version: str) -> None:
        for file, text in {
            "brought_along.py": f"VERSION = {version!r}\n",
            f"brought_along-{version}.dist-info/METADATA": f"Name: brought-along\nVersion: {version}\n",
        }.items():
            path = workspace / "in" / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    body = "import brought_along; print('active has', brought_along.VERSION)"
    active = scripted(body) | {"requirements.txt": "brought-along==2\n"}
    code = GOOD.replace(
        "def model_train", "import brought_along\nassert brought_along.VERSION == '1'\n\ndef model_train"
    )
    pipeline: Files = {"pipeline/train.py": code, "requirements.txt": "brought-along==1\n"}
    zips: dict[str, Any] = {"active-model": active, "pipeline": pipeline}
    workspace = jobs.workspace("TRAIN", cancer, "benign", "b", zips=zips, compare=ACTIVE)
    place(workspace, "packages", "1")
    place(workspace, "active-packages", "2")
    result = Result(run(workspace, SILENT), workspace / "out")
    assert held(result)["active"].get("problem") is None
    assert scores(held(result))["accuracy"] > 0.9


def test_what_the_active_version_leaves_running_is_ended(jobs: Jobs, cancer: pd.DataFrame) -> None:
    """Also a daemon that has nothing to do with its parent any more; what was there before stays."""
    pids = jobs.root / "pids"
    daemon = (
        "if not os.fork():\n            os.setsid()\n            if os.fork(): os._exit(0)\n"
        f"            open({str(pids)!r}, 'w').write(str(os.getpid()))\n            signal.pause()\n"
        f"        while not (os.path.exists({str(pids)!r}) and os.path.getsize({str(pids)!r})): pass"
    )
    with subprocess.Popen(["sleep", "600"]) as ours:
        found = held(compare(jobs, cancer, scripted(daemon)))
        assert ours.poll() is None
        ours.kill()
    assert 0.5 < scores(found["active"])["accuracy"] < 0.9
    assert not Path("/proc", pids.read_text()).exists()


def test_the_active_version_changes_nothing_of_the_new_one(jobs: Jobs, cancer: pd.DataFrame) -> None:
    changes = "open('../../../../../model.zip', 'ab').write(b'more')"
    error = compare(jobs, cancer, scripted(changes)).error
    assert (error["type"], error["step"]) == ("StepError", "compare")
    assert "has changed model.zip" in error["message"]
    reads = "open('../../../../../model.zip', 'rb').read(); open('mine', 'w').write('kept out of the way')"
    assert held(compare(jobs, cancer, scripted(reads)))["active"]["metrics"]


def test_another_environment_is_not_tried(jobs: Jobs, cancer: pd.DataFrame) -> None:
    trace = jobs.root / "canary"
    active = scripted(f"open({str(trace)!r}, 'w')")
    result = compare(jobs, cancer, active, compare=ACTIVE | {"problem": "another environment"})
    assert held(result)["active"] == {"problem": "another environment"}
    assert not trace.exists()
    assert compare(jobs, cancer, active).code == 0
    assert trace.exists(), "its twin"


def test_a_model_that_no_framework_knows_has_no_score(jobs: Jobs, cancer: pd.DataFrame) -> None:
    code = (
        "def model_train(x_train, y_train, x_test, y_test):\n    return object(), []\n"
        "def model_save(model, model_path):\n    import pathlib\n"
        "    pathlib.Path(model_path, 'mine.txt').write_text('mine')\n"
    )
    result = compare(jobs, cancer, weak(cancer), pipeline={"pipeline/train.py": code})
    assert "has none of model/model.joblib" in held(result)["problem"]
    assert scores(held(result)["active"])["accuracy"] > 0.5


def test_what_training_does_to_its_process_does_not_reach_the_active_version(jobs: Jobs, cancer: pd.DataFrame) -> None:
    """A pipeline that breaks the evaluator for itself, and writes into its frames."""
    breaks = (
        "import kwdbml.steps.metrics as m\n"
        "m.score = lambda *a: m.Scores([{'objective': 'accuracy', 'score': 2.0}])\n"
        "def model_train(x_train, y_train, x_test, y_test):\n"
        "    from sklearn.linear_model import LogisticRegression\n"
        "    model = LogisticRegression(max_iter=5000).fit(x_train, y_train.iloc[:, 0])\n"
        "    x_test.iloc[:, :] = 0\n    y_test.iloc[:, :] = 0\n    return model, []\n"
    )
    import kwdbml.steps.metrics as metrics

    kept: Callable[..., Any] = metrics.score
    try:
        found = held(compare(jobs, cancer, weak(cancer), pipeline={"pipeline/train.py": breaks}))
    finally:
        metrics.score = kept
    assert scores(found)["accuracy"] < 1
    assert scores(found["active"])["accuracy"] > 0.5


def test_each_goes_through_its_own_data_preparation(jobs: Jobs, cancer: pd.DataFrame) -> None:
    """An active version that was made for centimetres gets them; the new one gets what the data has."""
    features = cancer.drop(columns="benign")
    model = DecisionTreeClassifier(max_depth=4).fit(features * 100, cancer["benign"])
    preparing = {
        "prediction/data_preparation_prediction.py": "def preprocess(inputs, data_path):\n"
        "    return {'instances': (inputs * 100).to_numpy().tolist()}\n"
    }
    good = held(compare(jobs, cancer, dumped(model), zips={"active-transformer": preparing}))
    assert scores(good["active"])["accuracy"] > 0.9


def test_a_split_that_makes_other_rows(jobs: Jobs, cancer: pd.DataFrame) -> None:
    training = "def split(df):\n    return df.iloc[:400], df.iloc[400:].drop(columns=['mean radius'])\n"
    transform = {"training/data_preparation_training.py": training}
    code = (
        "from sklearn.dummy import DummyClassifier\n"
        "def model_train(a, b, c, d):\n    return DummyClassifier().fit(a, b), []\n"
    )
    result = compare(jobs, cancer, weak(cancer), pipeline={"pipeline/train.py": code}, zips={"transformer": transform})
    assert held(result)["hash"] is None
    assert "mean radius" in held(result)["problem"]


def test_nothing_held_out(jobs: Jobs, cancer: pd.DataFrame) -> None:
    few = pd.concat([cancer[cancer["benign"] == 0].head(1), cancer[cancer["benign"] == 1].head(1)])
    result = compare(jobs, few.reset_index(drop=True), weak(cancer))
    assert held(result)["problem"] == "no rows were held out"


@pytest.mark.parametrize("problem", ["r", "m"])
def test_other_problems(jobs: Jobs, diabetes: pd.DataFrame, iris: pd.DataFrame, problem: str) -> None:
    frame, target = (diabetes, "progress") if problem == "r" else (iris, "species")
    algorithm = "linear_regression" if problem == "r" else "logistic_regression"
    trained = jobs.run("TRAIN", frame, target, problem, algorithm=algorithm)
    zips = {"active-model": trained.out / "model.zip"}
    result = jobs.run("TRAIN", frame, target, problem, algorithm="random_forest", compare=ACTIVE, zips=zips)
    assert trained.metrics == pytest.approx(scores(held(result)["active"]))
    assert result.metrics == pytest.approx(scores(held(result)))


def test_missing_values_and_texts_come_as_they_were(jobs: Jobs, flights: pd.DataFrame) -> None:
    frame = flights.rename(columns={"late": "benign"})
    trained = jobs.run("TRAIN", frame, "benign", "b", algorithm="hist_gradient_boosting")
    found = held(compare(jobs, frame, (trained.out / "model.zip").read_bytes(), algorithm="hist_gradient_boosting"))
    assert found["metrics"] == found["active"]["metrics"] == trained.json["metrics"]


def test_the_positive_label_is_one_for_both(jobs: Jobs, cancer: pd.DataFrame) -> None:
    frame = cancer.assign(benign=[("no", "yes")[value] for value in cancer["benign"]])
    frame["benign"] = frame["benign"].astype(object)
    trained = jobs.run("TRAIN", frame, "benign", "b", algorithm="logistic_regression")
    model = (trained.out / "model.zip").read_bytes()
    asked: dict[str, Any] = {"hyperparameters": {"positive_label": "no"}, "positive_label": "no"}
    for rest in (dict[str, Any](), asked):
        found = held(compare(jobs, frame, model, **rest))
        assert found["metrics"] == found["active"]["metrics"]
