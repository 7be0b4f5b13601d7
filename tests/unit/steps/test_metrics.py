"""The built-in evaluator against scikit-learn's, and where a metric is not defined."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn import metrics as reference

from kwdbml.model import ProblemType
from kwdbml.steps.failure import StepError
from kwdbml.steps.metrics import Answers, positive_of, score

R, B, M = ProblemType.REGRESSION, ProblemType.BINARY, ProblemType.MULTI
RNG = np.random.default_rng(0)


def scores(*arguments: Any, **named: Any) -> dict[str, Any]:
    return {metric["objective"]: metric["score"] for metric in score(*arguments, **named).metrics}


def test_regression() -> None:
    truth, answer = RNG.normal(size=50), RNG.normal(size=50)
    found = scores(R, [], truth, Answers(answer))
    assert found["mse"] == pytest.approx(reference.mean_squared_error(truth, answer))
    assert found["mae"] == pytest.approx(reference.mean_absolute_error(truth, answer))
    assert found["r2"] == pytest.approx(reference.r2_score(truth, answer))
    assert scores(R, ["r2"], np.ones(3), Answers(np.ones(3))) == {"r2": None}
    assert scores(R, ["mae"], np.ones(2), Answers(np.array([1.0, np.nan]))) == {"mae": None}


@pytest.mark.parametrize("labels", [(0, 1), (1, 2), ("no", "yes"), (False, True)])
@pytest.mark.parametrize("asked", [None, 0, 1])
def test_binary(labels: tuple[Any, Any], asked: int | None) -> None:
    chance = RNG.random(200)
    kind = object if isinstance(labels[0], str) else None
    truth = np.array([labels[int(x)] for x in RNG.random(200) < chance], dtype=kind)
    answer = np.array([labels[int(x)] for x in chance >= 0.5], dtype=kind)
    positive = labels[1] if asked is None else labels[asked]
    answers = Answers(answer, np.column_stack([1 - chance, chance]), list(labels))
    found = score(B, [], truth, answers, None if asked is None else positive)
    assert found.positive_label == positive
    values = {metric["objective"]: metric["score"] for metric in found.metrics}
    true, guess = truth == positive, answer == positive
    towards = chance if positive == labels[1] else 1 - chance
    assert values["precision"] == pytest.approx(reference.precision_score(true, guess))
    assert values["recall"] == pytest.approx(reference.recall_score(true, guess))
    assert values["f1"] == pytest.approx(reference.f1_score(true, guess))
    assert values["accuracy"] == pytest.approx(reference.accuracy_score(true, guess))
    assert values["auc"] == pytest.approx(reference.roc_auc_score(true, towards))
    assert values["log_loss"] == pytest.approx(reference.log_loss(true, towards))


@pytest.mark.parametrize("shape", ["vector", "one per class"])
def test_a_bare_probability_is_positive_from_a_half(shape: str) -> None:
    truth = np.array(["no", "yes", "yes", "no"], dtype=object)
    chance = np.array([0.2, 0.5, 0.49, 0.1])
    values = chance if shape == "vector" else np.column_stack([1 - chance, chance])
    found = score(B, [], truth, Answers(values))
    metrics = {metric["objective"]: metric["score"] for metric in found.metrics}
    assert found.positive_label == "yes"
    assert metrics["precision"] == 1.0
    assert metrics["recall"] == 0.5
    assert metrics["auc"] == 1.0
    other = scores(B, ["recall", "auc"], truth, Answers(values), "no")
    assert other == {"recall": 1.0, "auc": 1.0}


def test_decision_values_rank_but_are_no_probability() -> None:
    answers = Answers(np.array([0, 0, 1]), np.array([-3.0, -1.0, 2.0]), [0, 1])
    found = score(B, [], np.array([0, 1, 1]), answers)
    values = {metric["objective"]: metric["score"] for metric in found.metrics}
    assert values["auc"] == 1.0
    assert values["log_loss"] is None
    assert found.notes == ["log_loss is null: the model gives no probability"]


def test_multi_class_is_macro_averaged() -> None:
    truth = RNG.choice(["a", "b", "c"], 100).astype(object)
    answer = RNG.choice(["a", "b", "c", "d"], 100).astype(object)
    found = scores(M, [], truth, Answers(answer))
    for name, function in {
        "precision": reference.precision_score,
        "recall": reference.recall_score,
        "f1": reference.f1_score,
    }.items():
        expected = function(truth.astype(str), answer.astype(str), average="macro", zero_division=0)
        assert found[name] == pytest.approx(expected)
    assert found["accuracy"] == pytest.approx(np.mean(truth == answer))


def test_a_table_of_probabilities_is_its_likeliest_class() -> None:
    table = np.array([[0.1, 0.2, 0.7], [0.8, 0.1, 0.1], [0.2, 0.5, 0.3]])
    assert scores(M, ["accuracy"], np.array([2, 0, 1]), Answers(table)) == {"accuracy": 1.0}


def test_the_asked_for_come_in_the_asked_order_and_unknown_ones_are_told() -> None:
    assert list(scores(R, ["r2", "mse"], np.arange(3.0), Answers(np.arange(3.0)))) == ["r2", "mse"]
    with pytest.raises(StepError, match='"f1"') as caught:
        score(R, ["f1"], np.arange(3.0), Answers(np.arange(3.0)))
    assert "mse, rmse, mae, r2" in caught.value.hint


def test_positive_labels() -> None:
    assert positive_of(["a", "b"], None) == "b"
    assert positive_of([False], None) is True
    assert positive_of([0], None) == 1
    assert positive_of([False, True], "true") is True
    assert positive_of([False, True], 1) is True
    assert positive_of([0, 1], "1") == 1
    with pytest.raises(StepError, match="positive_label 'c' is no label of the target") as caught:
        positive_of(["a", "b, c"], "c")
    assert caught.value.hint == "its labels are 'a', 'b, c'"
