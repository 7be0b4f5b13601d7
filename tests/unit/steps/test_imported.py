"""Models from outside, as import_model stores them: every framework and file ending, alone and with all that may stand
around them. The models are fitted here and packed by hand; no pipeline has made them."""

from __future__ import annotations

import importlib.util
import io
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.fixtures.bundles import zipped
from tests.unit.steps.jobs import Jobs, Result

ENDINGS = [
    *(("sklearn", ending) for ending in ("joblib", "pkl", "pickle")),
    *(("xgboost", ending) for ending in ("joblib", "pkl", "pickle", "json")),
    *(("lightgbm", ending) for ending in ("joblib", "pkl", "pickle", "txt")),
]
CASES = pytest.mark.parametrize(("name", "ending"), ENDINGS)
NAMES = ["mean radius", "mean texture", "worst area", "worst smoothness"]
ANSWER = {"r": "progress", "b": "benign", "m": "kind"}


@pytest.fixture(scope="session")
def tables(cancer: pd.DataFrame, diabetes: pd.DataFrame, iris: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """One small table per problem type, its target last; names with blanks, as people have them."""
    codes = iris["species"].map({"setosa": 0, "versicolor": 1, "virginica": 2}).astype("int64")
    return {
        "r": diabetes[["bmi", "bp", "s5", "s6", "progress"]],
        "b": cancer[[*NAMES, "benign"]],
        "m": iris.iloc[:, :4].assign(kind=codes),
    }


def fitted(name: str, problem: str, frame: pd.DataFrame) -> Any:
    x, y = frame.iloc[:, :-1], frame.iloc[:, -1]
    if name == "sklearn":
        last = LinearRegression() if problem == "r" else LogisticRegression(max_iter=1000)
        return make_pipeline(StandardScaler(), last).fit(x, y)
    if name == "xgboost":
        kind = xgboost.XGBRegressor if problem == "r" else xgboost.XGBClassifier
        return kind(n_estimators=20, n_jobs=1).fit(x, y)
    kind = lightgbm.LGBMRegressor if problem == "r" else lightgbm.LGBMClassifier
    return kind(n_estimators=20, n_jobs=1, verbosity=-1).fit(x, y)


def packed(model: Any, ending: str, tmp: Path) -> bytes:
    """The model's file, as people save one with this ending."""
    if ending in ("pkl", "pickle"):
        return pickle.dumps(model)
    if ending == "joblib":
        buffer = io.BytesIO()
        joblib.dump(model, buffer)
        return buffer.getvalue()
    path = tmp / f"saved.{ending}"
    (model.booster_ if ending == "txt" else model).save_model(path)
    return path.read_bytes()


def evaluated(jobs: Jobs, frame: pd.DataFrame, problem: str, zips: dict[str, Any], name: str, **more: Any) -> Result:
    return jobs.run("EVALUATE", frame, frame.columns[-1], problem, framework=name, zips=zips, **more)


def predicted(jobs: Jobs, frame: pd.DataFrame, problem: str, zips: dict[str, Any], name: str, **more: Any) -> Any:
    """The answers for rows of which the target is not known."""
    target = frame.columns[-1]
    types_ = {target: more.pop("type", "FLOAT" if problem == "r" else "INT"), **more.pop("features", {})}
    features = frame.drop(columns=target)
    done = jobs.run("BATCH_PREDICT", features, target, problem, framework=name, zips=zips, types=types_, **more)
    return done.predictions["t0"].to_pylist()


# -- every ending ------------------------------------------------------------------------------------------------------


@CASES
@pytest.mark.parametrize("problem", ["r", "b", "m"])
def test_every_ending(
    jobs: Jobs, tables: dict[str, pd.DataFrame], tmp_path: Path, *, name: str, ending: str, problem: str
) -> None:
    """Answers are the model's own, though the columns were declared in another order than it was fitted in."""
    frame = tables[problem]
    model = fitted(name, problem, frame)
    zips = {"model": {f"model/model.{ending}": packed(model, ending, tmp_path), "requirements.txt": "numpy>=1.20\n"}}
    expected = model.predict(frame.iloc[:, :-1])
    turned = frame[[*reversed(frame.columns[:-1]), frame.columns[-1]]]
    answers = predicted(jobs, turned, problem, zips, name)
    assert answers == pytest.approx(expected, rel=1e-5)
    assert {type(answer) for answer in answers} == {float if problem == "r" else int}
    found = evaluated(jobs, turned, problem, zips, name)
    if problem == "r":
        assert found.metrics["mae"] == pytest.approx(np.abs(expected - frame["progress"]).mean(), rel=1e-4)
    else:
        assert found.metrics["accuracy"] == pytest.approx(np.mean(expected == frame.iloc[:, -1]))
        assert found.metrics["accuracy"] > 0.85
    if problem == "b":
        assert found.json["positive_label"] == 1
        assert found.metrics["auc"] > 0.95
        assert found.metrics["log_loss"] is not None


def around(functions: str) -> dict[str, str | bytes]:
    """A data-preparation bundle: a file that its functions read, a module, requirements, and the functions."""
    return {
        "prediction/data_preparation_prediction.py": "import json, pathlib\nimport pandas as pd\n"
        "from modules import halves\n"
        "def factor(data_path):\n    return json.loads((pathlib.Path(data_path) / 'factor.json').read_text())\n"
        + functions,
        "data/factor.json": "2",
        "modules.zip": zipped({"halves.py": "def half(x):\n    return x / 2\n"}),
        "requirements.txt": "pandas\n",
    }


ONLINE = """
def preprocess(inputs, data_path):
    return {"instances": (halves.half(inputs) * factor(data_path)).to_dict("records")}
def postprocess(inputs, data_path):
    return {"predictions": [v if isinstance(v, list) else v * factor(data_path) / 2 for v in inputs["predictions"]]}
"""
BATCH = """
def preprocess(inputs, data_path):
    raise AssertionError("batch_preprocess goes before")
postprocess = preprocess
def batch_preprocess(df, data_path):
    return halves.half(df) * factor(data_path)
def batch_postprocess(df, data_path):
    return halves.half(df) * factor(data_path)
"""


@CASES
@pytest.mark.parametrize("functions", [ONLINE, BATCH], ids=["online", "batch"])
def test_every_ending_with_data_preparation(
    jobs: Jobs, tables: dict[str, pd.DataFrame], tmp_path: Path, *, name: str, ending: str, functions: str
) -> None:
    for problem in ("r", "b"):
        frame = tables[problem]
        model = fitted(name, problem, frame)
        zips = {"model": {f"model/model.{ending}": packed(model, ending, tmp_path)}, "transformer": around(functions)}
        expected = model.predict(frame.iloc[:, :-1])
        assert predicted(jobs, frame, problem, zips, name) == pytest.approx(expected, rel=1e-5)
        metrics = evaluated(jobs, frame, problem, zips, name).metrics
        assert metrics["r2"] > 0.3 if problem == "r" else metrics["accuracy"] > 0.9


SCRIPTS = {
    "pipeline/train.py": "def model_train(x_train, y_train, x_test, y_test):\n    raise NotImplementedError\n",
    "pipeline/evaluate.py": "import answers\n"
    "def model_evaluate(model_path, metrics, x_test, y_test):\n"
    "    same = [a == b for a, b in zip(answers.of(model_path, x_test), y_test.iloc[:, 0])]\n"
    "    return [{'objective': metrics[0], 'score': sum(same) / len(same)}]\n",
    "pipeline/batch_predict.py": "import answers\nimport pandas as pd\n"
    "def model_predict(model_path, x_test):\n"
    "    return pd.DataFrame({'benign': answers.of(model_path, x_test)})\n",
    "pipeline/answers.py": "import glob, joblib, lightgbm, xgboost\n"
    "def of(model_path, x):\n"
    "    path, = glob.glob(model_path + '/model.*')\n"
    "    if path.endswith('.json'):\n"
    "        model = xgboost.XGBClassifier()\n"
    "        model.load_model(path)\n"
    "    elif path.endswith('.txt'):\n"
    "        return (lightgbm.Booster(model_file=path).predict(x) >= 0.5).astype(int).tolist()\n"
    "    else:\n"
    "        model = joblib.load(path)\n"
    "    return [int(v) for v in model.predict(x)]\n",
}


@CASES
def test_a_pipelines_own_scripts_run_over_it(
    jobs: Jobs, tables: dict[str, pd.DataFrame], tmp_path: Path, name: str, ending: str
) -> None:
    frame = tables["b"]
    model = fitted(name, "b", frame)
    zips: dict[str, Any] = {"model": {f"model/model.{ending}": packed(model, ending, tmp_path)}, "pipeline": SCRIPTS}
    expected = model.predict(frame.iloc[:, :-1])
    assert predicted(jobs, frame, "b", zips, name) == expected.tolist()
    metrics = evaluated(jobs, frame, "b", zips, name, objectives=[["agreement"]]).metrics
    assert metrics == {"agreement": pytest.approx(np.mean(expected == frame["benign"]))}


# -- user code in the model's bundle -----------------------------------------------------------------------------------

SHIFTED = (
    "from modules import constants\nclass Shifted:\n    def predict(self, x):\n        return x['a'] + constants.ONE\n"
)


def shifted() -> dict[str, str | bytes]:
    """A model of a class in modules.zip, which imports its sibling when it is unpickled."""
    modules = types.ModuleType("modules.shifted")
    exec("class Shifted:\n    pass\n", modules.__dict__)
    modules.Shifted.__module__ = "modules.shifted"
    package = types.ModuleType("modules")
    sys.modules |= {"modules": package, "modules.shifted": modules}
    try:
        model = pickle.dumps(modules.Shifted())
    finally:
        del sys.modules["modules"], sys.modules["modules.shifted"]
    return {
        "model/model.pkl": model,
        "modules.zip": zipped({"shifted.py": SHIFTED, "constants.py": "ONE = 1.0\n"}),
        "requirements.txt": "scikit-learn\n",
    }


def test_a_model_of_its_own_modules(jobs: Jobs) -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0, 4.0], "y": [2.0, 3.0, 5.0]})
    assert predicted(jobs, frame, "r", {"model": shifted()}, "sklearn") == [2.0, 3.0, 5.0]
    assert evaluated(jobs, frame, "r", {"model": shifted()}, "sklearn").metrics["rmse"] == 0


def test_a_pipelines_scripts_unpickle_a_model_of_its_own_modules(jobs: Jobs) -> None:
    """Both bundles have modules; the script sees its own first, and the model's class is found."""
    frame = pd.DataFrame({"a": [1.0, 2.0, 4.0], "y": [2.0, 3.0, 5.0]})
    load = "import joblib, pandas as pd\nfrom modules import constants\n"
    pipeline: dict[str, str | bytes] = {
        "pipeline/evaluate.py": load + "def model_evaluate(model_path, metrics, x_test, y_test):\n"
        "    off = joblib.load(model_path + '/model.pkl').predict(x_test) - y_test['y']\n"
        "    return {'off': off.abs().max(), 'mine': constants.MINE}\n",
        "pipeline/batch_predict.py": load + "def model_predict(model_path, x_test):\n"
        "    return pd.DataFrame({'y': joblib.load(model_path + '/model.pkl').predict(x_test)})\n",
        "modules.zip": zipped({"constants.py": "ONE = 1.0\nMINE = 7\n"}),
    }
    zips: dict[str, Any] = {"model": shifted(), "pipeline": pipeline}
    assert evaluated(jobs, frame, "r", zips, "sklearn").metrics == {"off": 0, "mine": 7}
    assert predicted(jobs, frame, "r", zips, "sklearn") == [2.0, 3.0, 5.0]


# -- what a model answers ----------------------------------------------------------------------------------------------


def test_an_estimators_json_stops_where_training_stopped(
    jobs: Jobs, tables: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    """Its file also holds the trees after the best one: a bare Booster would use them."""
    frame = tables["b"]
    x, y = frame[NAMES], frame["benign"]
    model = xgboost.XGBRegressor(n_estimators=200, early_stopping_rounds=5, learning_rate=0.5)
    model.fit(x[:300], y[:300], eval_set=[(x[300:], y[300:])], verbose=False)
    assert model.best_iteration + 1 < model.get_booster().num_boosted_rounds()
    zips = {"model": {"model/model.json": packed(model, "json", tmp_path)}}
    assert predicted(jobs, frame, "r", zips, "xgboost") == pytest.approx(model.predict(x), abs=1e-6)


@pytest.mark.parametrize("name", ["sklearn", "xgboost", "lightgbm"])
def test_two_targets(jobs: Jobs, tables: dict[str, pd.DataFrame], name: str) -> None:
    from sklearn.multioutput import MultiOutputClassifier

    frame = tables["b"].assign(large=(tables["b"]["worst area"] > 700).astype("int64"))
    x, targets = frame[NAMES], ["benign", "large"]
    model: Any = {
        "sklearn": RandomForestClassifier(n_estimators=10, random_state=0),
        "xgboost": xgboost.XGBClassifier(n_estimators=10, n_jobs=1),
        "lightgbm": MultiOutputClassifier(lightgbm.LGBMClassifier(n_estimators=10, verbosity=-1, n_jobs=1)),
    }[name].fit(x, frame[targets])
    zips = {"model": {"model/model.pkl": pickle.dumps(model)}}
    metrics = jobs.run(
        "EVALUATE", frame, targets, "b", framework=name, zips=zips, objectives=[["f1"], ["accuracy"]]
    ).metrics
    assert list(metrics) == ["benign.f1", "large.accuracy"]
    assert min(metrics.values()) > 0.9
    types_ = dict.fromkeys(targets, "INT")
    table = jobs.run("BATCH_PREDICT", x, targets, "b", framework=name, zips=zips, types=types_).predictions
    assert np.array(list(table.to_pydict().values())).T.tolist() == np.asarray(model.predict(x)).tolist()


def test_two_targets_of_a_regression(jobs: Jobs, tables: dict[str, pd.DataFrame]) -> None:
    frame = tables["r"]
    x, targets = frame[["bmi", "bp", "s5"]], ["s6", "progress"]
    model = RandomForestRegressor(n_estimators=5, random_state=0).fit(x, frame[targets])
    zips = {"model": {"model/model.joblib": packed(model, "joblib", Path())}}
    metrics = jobs.run("EVALUATE", frame, targets, "r", zips=zips, objectives=[["r2"]]).metrics
    assert metrics["s6.r2"] > 0.5
    assert metrics["progress.r2"] > 0.5
    table = jobs.run("BATCH_PREDICT", x, targets, "r", zips=zips).predictions
    found = np.array(list(table.to_pydict().values())).T
    assert found == pytest.approx(model.predict(x))


@CASES
def test_a_probability_alone(
    jobs: Jobs, tables: dict[str, pd.DataFrame], tmp_path: Path, name: str, ending: str
) -> None:
    """A model that gives a probability, to be positive from 0.5."""
    frame = tables["b"]
    model: Any = fitted(name, "b", frame)
    chance = model.predict_proba(frame[NAMES])[:, 1]
    if ending == "json":
        path = tmp_path / "booster.json"
        model.get_booster().save_model(path)
        content = path.read_bytes()
        functions = ""
    elif ending == "txt":
        content, functions = packed(model, ending, tmp_path), ""
    else:
        content = packed(model, ending, tmp_path)
        functions = (
            "def postprocess(inputs, data_path):\n"
            "    return {'predictions': [0.9 if v else 0.2 for v in inputs['predictions']]}\n"
        )
    zips: dict[str, Any] = {"model": {f"model/model.{ending}": content}}
    if functions:
        zips["transformer"] = {"prediction/data_preparation_prediction.py": functions}
    found = evaluated(jobs, frame, "b", zips, name)
    assert found.metrics["accuracy"] == pytest.approx(np.mean((chance >= 0.5) == frame["benign"]))
    assert found.metrics["auc"] > 0.85
    assert predicted(jobs, frame, "b", zips, name) == (chance >= 0.5).astype(int).tolist()
    as_bool = frame.assign(benign=frame["benign"] == 1)
    assert evaluated(jobs, as_bool, "b", zips, name).metrics["accuracy"] == found.metrics["accuracy"]
    assert predicted(jobs, as_bool, "b", zips, name, type="BOOL") == (chance >= 0.5).tolist()


@pytest.mark.parametrize("name", ["sklearn", "lightgbm"])
def test_labels_that_are_text(jobs: Jobs, iris: pd.DataFrame, name: str) -> None:
    frame = iris.set_axis([*"abcd", "species"], axis=1)
    model = fitted(name, "m", frame)
    zips = {"model": {"model/model.pickle": pickle.dumps(model)}}
    assert evaluated(jobs, frame, "m", zips, name).metrics["accuracy"] > 0.9
    assert predicted(jobs, frame, "m", zips, name, type="STRING") == model.predict(frame[list("abcd")]).tolist()


@pytest.mark.parametrize("booster", [False, True])
@pytest.mark.parametrize("name", ["xgboost", "lightgbm"])
def test_numbers_for_a_text_target(jobs: Jobs, tables: dict[str, pd.DataFrame], *, name: str, booster: bool) -> None:
    """Two numbers are the first and the second label; of three none knows, until postprocess names them."""
    model = fitted(name, "b", tables["b"])
    if booster:
        model = model.booster_ if name == "lightgbm" else model.get_booster()
    zips: dict[str, Any] = {"model": {"model/model.pkl": pickle.dumps(model)}}
    said = tables["b"].assign(benign=np.where(tables["b"]["benign"] == 1, "yes", "no").astype(object))
    assert evaluated(jobs, said, "b", zips, name).metrics["auc"] > 0.95
    zips = {"model": {"model/model.pkl": pickle.dumps(fitted(name, "m", tables["m"]))}}
    kinds = tables["m"].assign(kind=np.array(["x", "y", "z"], dtype=object)[tables["m"]["kind"]])
    error = evaluated(jobs, kinds, "m", zips, name).error
    assert 'the target "kind" is text' in error["message"]
    assert "postprocess" in error["message"]
    naming = (
        "def postprocess(inputs, data_path):\n"
        "    return {'predictions': ['xyz'[int(v)] for v in inputs['predictions']]}\n"
    )
    zips["transformer"] = {"prediction/data_preparation_prediction.py": naming}
    assert evaluated(jobs, kinds, "m", zips, name).metrics["accuracy"] > 0.9


@pytest.mark.parametrize("ending", ["pkl", "native"])
@pytest.mark.parametrize("name", ["xgboost", "lightgbm"])
def test_texts_are_the_categories_of_training(jobs: Jobs, tmp_path: Path, name: str, ending: str) -> None:
    """Also where a piece of the data lacks some of them, has others, or none."""
    kind = pd.Series(list("uvw") * 40)
    frame = pd.DataFrame({"k": kind.astype("category"), "x": np.arange(120) / 120, "y": (kind == "w") * 10.0})
    models: dict[str, Any] = {
        "xgboost": xgboost.XGBRegressor(n_estimators=30, enable_categorical=True, n_jobs=1),
        "lightgbm": lightgbm.LGBMRegressor(n_estimators=80, min_child_samples=5, n_jobs=1, verbosity=-1),
    }
    model = models[name].fit(frame[["k", "x"]], frame["y"])
    native = {"xgboost": "json", "lightgbm": "txt"}[name]
    file = native if ending == "native" else ending
    zips = {"model": {f"model/model.{file}": packed(model, file, tmp_path)}}
    some = pd.DataFrame({"x": [0.5, 0.5], "k": np.array(["w", "w"], dtype=object), "y": 10.0})
    assert predicted(jobs, some, "r", zips, name) == pytest.approx([10, 10], abs=1)
    other = some.assign(k=np.array(["w", "never seen"], dtype=object))
    assert predicted(jobs, other, "r", zips, name)[0] == pytest.approx(10, abs=1)
    none = some.assign(k=np.array([None, None], dtype=object))
    assert len(predicted(jobs, none, "r", zips, name, features={"k": "STRING"})) == 2


# -- what is wrong with a model ----------------------------------------------------------------------------------------

BROKEN = [
    (name, ending, content)
    for name, ending in ENDINGS
    for content in (b"", b"garbage", b"{}", pickle.dumps(LinearRegression())[:50])
]


@pytest.mark.parametrize(("name", "ending", "content"), BROKEN)
def test_a_broken_model_file(
    jobs: Jobs, tables: dict[str, pd.DataFrame], name: str, ending: str, content: bytes
) -> None:
    zips = {"model": {f"model/model.{ending}": content}}
    error = evaluated(jobs, tables["b"], "b", zips, name).error
    assert error["type"] == "InvalidParameter"
    assert error["message"].startswith(f"model/model.{ending} cannot be read as a model of {name}")
    assert "Stack trace" not in error["message"]


def test_a_model_of_a_library_that_is_not_here(jobs: Jobs, tables: dict[str, pd.DataFrame]) -> None:
    zips: dict[str, Any] = {"model": {"model/model.pkl": b"cno_such_library\nModel\n."}}
    error = evaluated(jobs, tables["b"], "b", zips, "sklearn").error
    assert "needs what is not here: No module named 'no_such_library'" in error["message"]
    assert "modules.zip" in error["message"]


@pytest.mark.parametrize(("name", "other"), [("sklearn", "xgboost"), ("sklearn", "lightgbm"), ("xgboost", "lightgbm")])
def test_a_model_of_another_framework(jobs: Jobs, tables: dict[str, pd.DataFrame], name: str, other: str) -> None:
    model = fitted(other, "b", tables["b"])
    booster = model.booster_ if other == "lightgbm" else model.get_booster()
    zips: dict[str, Any] = {"model": {"model/model.pkl": pickle.dumps(booster)}}
    error = evaluated(jobs, tables["b"], "b", zips, name).error
    assert f"holds a Booster of {other}, and the model is declared as one of {name}" in error["message"]


@CASES
def test_a_column_that_the_model_wants_is_not_declared(
    jobs: Jobs, tables: dict[str, pd.DataFrame], tmp_path: Path, name: str, ending: str
) -> None:
    frame = tables["b"]
    zips = {"model": {f"model/model.{ending}": packed(fitted(name, "b", frame), ending, tmp_path)}}
    error = evaluated(jobs, frame.rename(columns={"worst area": "another"}), "b", zips, name).error
    assert "worst area" in error["message"].replace("_", " ")


def test_a_requirement_that_is_not_here(jobs: Jobs, tables: dict[str, pd.DataFrame]) -> None:
    model = pickle.dumps(fitted("sklearn", "b", tables["b"]))
    zips: dict[str, Any] = {"model": {"model/model.pkl": model, "requirements.txt": "scikit-learn<0.1\n"}}
    error = evaluated(jobs, tables["b"], "b", zips, "sklearn").error
    assert error["type"] == "MissingRequirement"
    assert "the model bundle's requirements.txt" in error["message"]


# -- TensorFlow --------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None,
    reason="tensorflow is not installed (pip install 'kwdbml[tensorflow]'): imported SavedModels are untested here",
)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("prepared", [False, True])
def test_a_saved_model(jobs: Jobs, tables: dict[str, pd.DataFrame], tmp_path: Path, *, prepared: bool) -> None:
    import tensorflow as tf

    frame = tables["b"]
    model = LogisticRegression(max_iter=5000).fit(frame[NAMES], frame["benign"])
    weights = tf.Variable(model.coef_[0].astype("float32")[:, None])
    module = tf.Module()
    module.weights_ = weights
    module.serve = tf.function(
        lambda x: {"chance": tf.sigmoid(tf.matmul(x, weights) + float(model.intercept_[0]))},
        input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")],
    )
    tf.saved_model.save(module, str(tmp_path / "001"), signatures={"serving_default": module.serve})
    files = {
        f"model/{path.relative_to(tmp_path).as_posix()}": path.read_bytes()
        for path in (tmp_path / "001").rglob("*")
        if path.is_file()
    }
    zips: dict[str, Any] = {"model": files}
    if prepared:
        zips["transformer"] = around(
            "def preprocess(inputs, data_path):\n    return {'inputs': inputs.to_numpy().tolist()}\n"
        )
    expected = model.predict(frame[NAMES])
    assert np.mean(np.array(predicted(jobs, frame, "b", zips, "tensorflow")) == expected) > 0.99
    assert evaluated(jobs, frame, "b", zips, "tensorflow").metrics["accuracy"] > 0.9
