"""The built-in algorithms: their names, what they are for, and their hyperparameters.

Standard library only: ``kwdbml.algorithms()`` and the check of ``hyperparameters`` at the call run inside the
database server. How an algorithm is built is :mod:`kwdbml.frameworks.builtin`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kwdbml.errors import InvalidParameter
from kwdbml.model import ProblemType

R, B, M = ProblemType.REGRESSION, ProblemType.BINARY, ProblemType.MULTI

#: Not an algorithm's own: the class that counts as positive in the metrics of a binary problem.
POSITIVE_LABEL = "positive_label"


@dataclass(frozen=True, slots=True)
class Hyperparameter:
    """One named value. ``low`` and ``high`` are both allowed; a default of None means "chosen by the algorithm"."""

    type: str  # "int", "float", "bool" or "text"
    default: int | float | bool | str | None
    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    problem_types: tuple[ProblemType, ...] = (R, B, M)

    @property
    def range(self) -> str:
        """For people: ``1 to 64``, ``none or balanced``, ``true or false``."""
        if self.type == "bool":
            text = "true or false"
        elif self.type == "text":
            text = " or ".join(self.choices)
        else:
            text = f"{_plain(self.low)} to {_plain(self.high)}"
        return f"{text}, or null" if self.default is None else text

    def as_json(self) -> dict[str, Any]:
        return {"type": self.type, "range": self.range, "default": self.default, "description": self.description}


@dataclass(frozen=True, slots=True)
class Algorithm:
    name: str
    description: str
    problem_types: tuple[ProblemType, ...]
    framework: str
    hyperparameters: Mapping[str, Hyperparameter]

    def for_problem(self, problem_type: ProblemType) -> dict[str, Hyperparameter]:
        """The hyperparameters that mean something for this problem type."""
        return {name: h for name, h in self.hyperparameters.items() if problem_type in h.problem_types}


def _count(default: int, high: int, description: str, low: int = 1) -> Hyperparameter:
    return Hyperparameter("int", default, description, low, high)


def _real(default: float, low: float, high: float, description: str) -> Hyperparameter:
    return Hyperparameter("float", default, description, low, high)


_CLASS_WEIGHT = Hyperparameter(
    "text",
    "none",
    "balanced: rare classes weigh more, in inverse proportion to how often they occur",
    choices=("none", "balanced"),
    problem_types=(B, M),
)
_LEAF = "rows in a leaf at least; the default is less where there are fewer than 20 times as many rows"
_LEARNING_RATE = _real(0.1, 1e-6, 1.0, "how much each tree corrects the ones before it")
_L2 = _real(1.0, 0.0, 1e9, "L2 regularization of the leaves")
_L1 = _real(0.0, 0.0, 1e9, "L1 regularization of the leaves")
_COLUMNS = _real(1.0, 0.01, 1.0, "fraction of the columns that each tree sees")
_ROWS = _real(1.0, 0.01, 1.0, "fraction of the rows that each tree sees")

_ALL = (
    Algorithm(
        "logistic_regression",
        "Linear model of the classes' log-odds; numbers are scaled, texts one-hot encoded",
        (B, M),
        "sklearn",
        {
            "C": _real(1.0, 1e-6, 1e6, "inverse strength of the L2 regularization"),
            "max_iter": _count(200, 10_000, "iterations at most"),
            "class_weight": _CLASS_WEIGHT,
        },
    ),
    Algorithm(
        "linear_regression",
        "Least squares; numbers are scaled, texts one-hot encoded",
        (R,),
        "sklearn",
        {"alpha": _real(0.0, 0.0, 1e9, "strength of the L2 regularization; 0 is ordinary least squares")},
    ),
    Algorithm(
        "random_forest",
        "Many deep trees on random samples, averaged; bounded in depth, so that the model stays small",
        (R, B, M),
        "sklearn",
        {
            "n_estimators": _count(100, 2_000, "number of trees"),
            "max_depth": _count(12, 64, "depth of a tree at most"),
            "min_samples_leaf": _count(10, 1_000_000, _LEAF),
            "max_features": Hyperparameter(
                "float",
                None,
                "fraction of the columns tried at a split; null: square root, a third in regression",
                0.01,
                1.0,
            ),
            "class_weight": _CLASS_WEIGHT,
        },
    ),
    Algorithm(
        "hist_gradient_boosting",
        "Gradient boosting on histograms, scikit-learn's own; fast, and a good first choice",
        (R, B, M),
        "sklearn",
        {
            "max_iter": _count(100, 10_000, "number of boosting rounds"),
            "learning_rate": _LEARNING_RATE,
            "max_leaf_nodes": _count(31, 4_096, "leaves of a tree at most", low=2),
            "max_depth": Hyperparameter("int", None, "depth of a tree at most; null: no limit", 1, 64),
            "min_samples_leaf": _count(20, 1_000_000, _LEAF),
            "l2_regularization": _real(0.0, 0.0, 1e9, "L2 regularization of the leaves"),
            "max_bins": _count(255, 255, "bins per column at most", low=2),
            "early_stopping": Hyperparameter(
                "bool", False, "hold out a tenth of the training rows and stop when they no longer improve"
            ),
            "class_weight": _CLASS_WEIGHT,
        },
    ),
    Algorithm(
        "xgboost",
        "Gradient boosting by XGBoost, histogram method",
        (R, B, M),
        "xgboost",
        {
            "n_estimators": _count(100, 10_000, "number of boosting rounds"),
            "learning_rate": _real(0.3, 1e-6, 1.0, _LEARNING_RATE.description),
            "max_depth": _count(6, 32, "depth of a tree at most"),
            "min_child_weight": _real(1.0, 0.0, 1e9, "sum of hessians in a leaf at least"),
            "gamma": _real(0.0, 0.0, 1e9, "loss reduction that a split must bring"),
            "subsample": _ROWS,
            "colsample_bytree": _COLUMNS,
            "reg_alpha": _L1,
            "reg_lambda": _L2,
            "max_bin": _count(256, 65_535, "bins per column at most", low=2),
        },
    ),
    Algorithm(
        "lightgbm",
        "Gradient boosting by LightGBM, leaf by leaf",
        (R, B, M),
        "lightgbm",
        {
            "n_estimators": _count(100, 10_000, "number of boosting rounds"),
            "learning_rate": _LEARNING_RATE,
            "num_leaves": _count(31, 4_096, "leaves of a tree at most", low=2),
            "max_depth": Hyperparameter("int", None, "depth of a tree at most; null: no limit", 1, 64),
            "min_child_samples": _count(20, 1_000_000, _LEAF),
            "subsample": _ROWS,
            "colsample_bytree": _COLUMNS,
            "reg_alpha": _L1,
            "reg_lambda": _real(0.0, 0.0, 1e9, _L2.description),
            "max_bin": _count(255, 65_535, "bins per column at most", low=2),
            "class_weight": _CLASS_WEIGHT,
        },
    ),
)

ALGORITHMS: Mapping[str, Algorithm] = {algorithm.name: algorithm for algorithm in _ALL}


def algorithm_for(name: str, problem_type: str) -> Algorithm:
    """The algorithm, when it is known and made for the problem type ("r", "b", "m"); else InvalidParameter."""
    algorithm = ALGORITHMS.get(name)
    if algorithm is None:
        raise InvalidParameter(f'unknown algorithm "{name}"', hint=f"known ones: {', '.join(ALGORITHMS)}")
    if problem_type not in algorithm.problem_types:
        fitting = [a.name for a in _ALL if problem_type in a.problem_types]
        raise InvalidParameter(
            f'algorithm "{name}" is not for problem type "{problem_type}"',
            hint=f"for problem type {problem_type}: {', '.join(fitting)}",
        )
    return algorithm


def validate_hyperparameters(algorithm: str, problem_type: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """All hyperparameters of the algorithm, defaults filled in; ``positive_label`` stays when it was given.

    InvalidParameter names the value, its range, and the known names.
    """
    known = algorithm_for(algorithm, problem_type).for_problem(ProblemType(problem_type))
    result: dict[str, Any] = {name: h.default for name, h in known.items()}
    for name, value in values.items():
        if name == POSITIVE_LABEL and problem_type == B:
            result[name] = _label(value)
            continue
        if name not in known:
            raise InvalidParameter(
                f'algorithm "{algorithm}" has no hyperparameter "{name}" for problem type "{problem_type}"',
                hint=f"known ones: {', '.join([*known, POSITIVE_LABEL] if problem_type == B else known)}",
            )
        result[name] = _checked(algorithm, name, known[name], value)
    return result


def _label(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise InvalidParameter(
        f"hyperparameter {POSITIVE_LABEL} is {_shown(value)}", hint="one value: text, number, boolean"
    )


def _checked(algorithm: str, name: str, known: Hyperparameter, value: Any) -> Any:
    """The value in its type, when it is one of the range's."""
    if value is None and known.default is None:
        return None
    if known.type == "bool" and isinstance(value, bool):
        return value
    if known.type == "text" and isinstance(value, str) and value.lower() in known.choices:
        return value.lower()
    if known.type in ("int", "float") and isinstance(value, (int, float)) and not isinstance(value, bool):
        whole = known.type == "float" or (math.isfinite(value) and value == int(value))
        if whole and _between(known, value):
            return float(value) if known.type == "float" else int(value)
    raise InvalidParameter(
        f'hyperparameter "{name}" of algorithm "{algorithm}" is {_shown(value)}',
        hint=f"it is of type {known.type}, {known.range}; the default is {_shown(known.default)}",
    )


def _between(known: Hyperparameter, value: float) -> bool:
    return known.low is not None and known.high is not None and known.low <= value <= known.high  # false for NaN


def _plain(value: float | None) -> str:
    if value is None:
        return ""
    return str(int(value)) if value == int(value) else f"{value:g}"


def _shown(value: Any) -> str:
    """As JSON would have it, short."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else repr(value)[:100]
