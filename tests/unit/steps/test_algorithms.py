"""The table of built-in algorithms, and the check of hyperparameters at the call."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import pytest

from kwdbml.errors import InvalidParameter
from kwdbml.frameworks.algorithms import ALGORITHMS, algorithm_for, validate_hyperparameters
from tests.unit.steps.jobs import environment


def test_the_names_of_the_specification() -> None:
    names = {
        "logistic_regression",
        "linear_regression",
        "random_forest",
        "hist_gradient_boosting",
        "xgboost",
        "lightgbm",
    }
    assert set(ALGORITHMS) == names


def test_each_problem_type_has_algorithms() -> None:
    for problem in "rbm":
        assert sum(problem in algorithm.problem_types for algorithm in ALGORITHMS.values()) >= 5


def test_every_default_is_within_its_range() -> None:
    for algorithm in ALGORITHMS.values():
        for problem in algorithm.problem_types:
            defaults = validate_hyperparameters(algorithm.name, problem, {})
            assert validate_hyperparameters(algorithm.name, problem, defaults) == defaults


def test_every_hyperparameter_is_described_as_json() -> None:
    for algorithm in ALGORITHMS.values():
        for hyperparameter in algorithm.hyperparameters.values():
            entry = json.loads(json.dumps(hyperparameter.as_json()))
            assert set(entry) == {"type", "range", "default", "description"}
            assert entry["range"]
            assert entry["description"]
    assert ALGORITHMS["random_forest"].hyperparameters["min_samples_leaf"].range == "1 to 1000000"


def test_values_get_their_type() -> None:
    values = validate_hyperparameters("hist_gradient_boosting", "b", {"max_iter": 50.0, "learning_rate": 1})
    assert values["max_iter"] == 50
    assert isinstance(values["max_iter"], int)
    assert isinstance(values["learning_rate"], float)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_iter", 0),
        ("max_iter", 1.5),
        ("max_iter", True),
        ("max_iter", "many"),
        ("max_iter", None),
        ("max_iter", math.nan),
        ("max_iter", math.inf),
        ("learning_rate", math.nan),
        ("learning_rate", 2),
        ("early_stopping", 1),
        ("class_weight", "heavy"),
        ("max_iter", [1]),
    ],
)
def test_a_value_out_of_range_is_named_with_its_range(name: str, value: Any) -> None:
    with pytest.raises(InvalidParameter) as caught:
        validate_hyperparameters("hist_gradient_boosting", "b", {name: value})
    assert f'"{name}"' in caught.value.message
    assert ALGORITHMS["hist_gradient_boosting"].hyperparameters[name].range in caught.value.hint


def test_an_unknown_name_gets_the_known_ones() -> None:
    with pytest.raises(InvalidParameter, match='"depth"') as caught:
        validate_hyperparameters("xgboost", "b", {"depth": 3})
    assert "max_depth" in caught.value.hint
    assert "positive_label" in caught.value.hint


def test_a_hyperparameter_of_another_problem_type_is_unknown() -> None:
    with pytest.raises(InvalidParameter, match="class_weight"):
        validate_hyperparameters("random_forest", "r", {"class_weight": "balanced"})


def test_positive_label_is_for_binary_problems() -> None:
    assert validate_hyperparameters("xgboost", "b", {"positive_label": "yes"})["positive_label"] == "yes"
    with pytest.raises(InvalidParameter, match="positive_label"):
        validate_hyperparameters("xgboost", "m", {"positive_label": "yes"})
    with pytest.raises(InvalidParameter, match="positive_label"):
        validate_hyperparameters("xgboost", "b", {"positive_label": ["yes"]})


def test_an_unknown_algorithm_gets_the_known_ones() -> None:
    with pytest.raises(InvalidParameter, match='"magic"') as caught:
        algorithm_for("magic", "b")
    assert "random_forest" in caught.value.hint
    with pytest.raises(InvalidParameter, match="not for problem type") as caught:
        algorithm_for("linear_regression", "b")
    assert "logistic_regression" in caught.value.hint


def test_the_module_needs_the_standard_library_only() -> None:
    """It is imported inside the database server."""
    code = "import sys; sys.modules.update(dict.fromkeys(('numpy', 'pandas', 'sklearn', 'pyarrow')));"
    code += "import kwdbml.frameworks.algorithms"
    subprocess.run([sys.executable, "-c", code], check=True, env=environment())
