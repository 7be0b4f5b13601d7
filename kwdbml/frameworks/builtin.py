"""The built-in algorithms as scikit-learn Pipelines: preprocessing and model in one object that loads without kwdbml.

Nothing depends on the order of columns: they are sorted by name at the fit and found by name ever after. Missing
numbers stay missing for trees and are the median, with an indicator, for linear models. Texts become numbers by their
known values; a text never seen, or too rare to be kept, is treated as missing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    VotingClassifier,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, StandardScaler

from kwdbml.errors import InvalidParameter
from kwdbml.frameworks.base import require
from kwdbml.model import ProblemType

#: Texts kept per column: as many as fit a histogram's bins beside "missing", and columns of a linear model.
MAX_CATEGORIES_TREE = 254
MAX_CATEGORIES_LINEAR = 100

_LEAF_SIZES = ("min_samples_leaf", "min_child_samples")
_LEAVES = 20  # that the rows should fill at least

_LINEAR = ("logistic_regression", "linear_regression")
_FLOAT32 = ("random_forest", "xgboost")  # these compute in float32, where 1e300 would be infinite


def fit(
    algorithm: str,
    problem_type: ProblemType,
    frame: pd.DataFrame,
    target: npt.NDArray[Any],
    parameters: Mapping[str, Any],
    *,
    threads: int,
    seed: int,
    given: Collection[str] = (),
) -> Pipeline:
    """The fitted pipeline. ``parameters`` have passed ``validate_hyperparameters``; ``given`` are no defaults.

    InvalidParameter when no feature has a value, when classes are fractions, or when the algorithm cannot cope.
    """
    frame = frame[sorted(frame.columns)]
    numbers, texts = _usable_columns(frame)
    if problem_type != ProblemType.REGRESSION:
        _check_labels(target)
    parameters = {**parameters, **_smaller_leaves(parameters, given, len(frame))}
    limit = min(MAX_CATEGORIES_TREE, parameters.get("max_bins", 255) - 1)
    categories = [_frequent(frame[name], MAX_CATEGORIES_LINEAR if algorithm in _LINEAR else limit) for name in texts]
    prepare = _preprocessing(algorithm, numbers, texts, categories)
    kinds = [False] * len(numbers) + [True] * len(texts)
    regression = problem_type == ProblemType.REGRESSION
    model = _MODELS[algorithm](dict(parameters), regression, kinds, threads, seed)
    fit_parameters: dict[str, Any] = {}
    if algorithm == "lightgbm":
        fit_parameters["model__categorical_feature"] = [i for i, text in enumerate(kinds) if text]
    try:
        return Pipeline([("prepare", prepare), ("model", model)]).fit(frame, target, **fit_parameters)
    except _refusals() as error:
        raise InvalidParameter(
            f"{algorithm} cannot learn from train_data: {(str(error).strip() or type(error).__name__).splitlines()[0]}",
            hint="look for values that are very large, for too few rows, or try another algorithm",
        ) from error


def _smaller_leaves(parameters: Mapping[str, Any], given: Collection[str], rows: int) -> dict[str, int]:
    """A leaf's least number of rows where nobody chose it: a default for many rows would leave few ones unsplit."""
    most = max(1, rows // _LEAVES)
    return {name: min(parameters[name], most) for name in _LEAF_SIZES if name in parameters and name not in given}


def _refusals() -> tuple[type[Exception], ...]:
    """What libraries raise for data that they cannot learn from; those that are not at work raise nothing."""
    names = [("xgboost.core", "XGBoostError"), ("lightgbm.basic", "LightGBMError")]
    own = [getattr(sys.modules[module], name) for module, name in names if module in sys.modules]
    return (ValueError, ArithmeticError, *own)


def _usable_columns(frame: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Columns of numbers and of texts, without those that have no value at all."""
    usable = [name for name in frame.columns if frame[name].notna().any()]
    if not usable:
        raise InvalidParameter(
            f"no feature has a single value in train_data: {', '.join(frame.columns[:20])}",
            hint="each is NULL, NaN or infinite in every row: give rows or columns that have values",
        )
    texts = [name for name in usable if frame[name].dtype == object]
    return [name for name in usable if frame[name].dtype != object], texts


def _check_labels(target: npt.NDArray[Any]) -> None:
    if target.dtype.kind == "f" and not np.all(target == np.floor(target)):
        raise InvalidParameter(
            "the target has fractions, which are no classes", hint="use a regression, or cast the target to text"
        )


def _frequent(column: pd.Series[Any], limit: int) -> list[str]:
    """The most frequent texts of a column, at most ``limit``, sorted; of equally frequent ones the first by name.

    Given to the encoder so that it need not count by itself, which takes ten times as long on objects.
    """
    codes, values = pd.factorize(column.to_numpy())
    counts = np.bincount(codes[codes >= 0], minlength=len(values))
    ranked = sorted(zip(-counts, values, strict=True))
    return sorted(value for _, value in ranked[:limit])


def _preprocessing(
    algorithm: str, numbers: list[str], texts: list[str], categories: list[list[str]]
) -> ColumnTransformer:
    number: Any = "passthrough"
    if algorithm in _LINEAR:
        impute = SimpleImputer(strategy="median", add_indicator=True)
        number = Pipeline([("impute", impute), ("scale", StandardScaler())])
        text: Any = OneHotEncoder(categories=categories, handle_unknown="ignore")
    else:
        text = OrdinalEncoder(
            categories=categories,
            handle_unknown="use_encoded_value",
            unknown_value=np.nan,
            encoded_missing_value=np.nan,
        )
        if algorithm in _FLOAT32:
            bound = float(np.finfo(np.float32).max)
            number = FunctionTransformer(np.clip, kw_args={"a_min": -bound, "a_max": bound}, validate=False)
    parts = [("numbers", number, numbers), ("texts", text, texts)]
    return ColumnTransformer([part for part in parts if part[2]])


def _class_weight(parameters: dict[str, Any]) -> dict[str, Any]:
    """scikit-learn's spelling of "none"."""
    if parameters.get("class_weight") == "none":
        parameters["class_weight"] = None
    return parameters


def _logistic_regression(p: dict[str, Any], _regression: bool, _kinds: list[bool], _threads: int, seed: int) -> Any:
    return LogisticRegression(**_class_weight(p), random_state=seed)


def _linear_regression(p: dict[str, Any], _regression: bool, _kinds: list[bool], _threads: int, seed: int) -> Any:
    return Ridge(alpha=p["alpha"], random_state=seed) if p["alpha"] else LinearRegression()


def _random_forest(p: dict[str, Any], regression: bool, _kinds: list[bool], threads: int, seed: int) -> Any:
    if p["max_features"] is None:
        p["max_features"] = 1 / 3 if regression else "sqrt"
    forest = RandomForestRegressor if regression else RandomForestClassifier
    return forest(**_class_weight(p), n_jobs=threads, random_state=seed)


def _hist_gradient_boosting(p: dict[str, Any], regression: bool, kinds: list[bool], _threads: int, seed: int) -> Any:
    boosting = HistGradientBoostingRegressor if regression else HistGradientBoostingClassifier
    return boosting(**_class_weight(p), categorical_features=kinds if any(kinds) else None, random_state=seed)


def _xgboost(p: dict[str, Any], regression: bool, kinds: list[bool], _threads: int, seed: int) -> Any:
    """XGBClassifier wants classes 0…k-1: a vote of one encodes the labels and gives them back, without our code."""
    xgboost = require("xgboost", "xgboost")
    common = {"tree_method": "hist", "enable_categorical": True, "random_state": seed}
    types = ["c" if text else "q" for text in kinds]
    if regression:
        return xgboost.XGBRegressor(**p, **common, feature_types=types)
    return VotingClassifier([("xgboost", xgboost.XGBClassifier(**p, **common, feature_types=types))], voting="soft")


def _lightgbm(p: dict[str, Any], regression: bool, _kinds: list[bool], _threads: int, seed: int) -> Any:
    lightgbm = require("lightgbm", "lightgbm")
    model = lightgbm.LGBMRegressor if regression else lightgbm.LGBMClassifier
    p["max_depth"] = p["max_depth"] or -1
    # n_jobs=0 is OpenMP's default, the job's share of cores; None would be every core of the machine.
    fixed = {"n_jobs": 0, "verbosity": -1, "subsample_freq": 1, "deterministic": True, "force_col_wise": True}
    return model(**_class_weight(p), **fixed, random_state=seed)


_MODELS: Mapping[str, Callable[[dict[str, Any], bool, list[bool], int, int], Any]] = {
    "logistic_regression": _logistic_regression,
    "linear_regression": _linear_regression,
    "random_forest": _random_forest,
    "hist_gradient_boosting": _hist_gradient_boosting,
    "xgboost": _xgboost,
    "lightgbm": _lightgbm,
}
