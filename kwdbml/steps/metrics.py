"""The built-in evaluator: metrics of a model's answers against the target as it stands in the data.

For a binary problem one label is positive: the second of the sorted labels (true, 1), or the one asked for. A model
that gives a probability counts as positive from 0.5. Several classes are averaged with equal weight (macro).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from kwdbml.model import METRICS, ProblemType
from kwdbml.steps.failure import StepError

Array = npt.NDArray[Any]
Metric = dict[str, Any]  # {"objective": str, "score": float | None}

THRESHOLD = 0.5


@dataclass(slots=True)
class Answers:
    """What a model said about some rows. ``values``: (rows,) or (rows, k); ``scores``: (rows, classes) or (rows,)."""

    values: Array
    scores: Array | None = None
    classes: list[Any] | None = None


@dataclass(slots=True)
class Scores:
    metrics: list[Metric]
    positive_label: Any = None
    notes: list[str] = field(default_factory=list)


def check_objectives(problem_type: ProblemType, objectives: Iterable[str]) -> list[str]:
    """The asked-for names, all of the problem type's when none; StepError for one that does not exist."""
    names = list(objectives) or list(METRICS[problem_type])
    for name in names:
        if name not in METRICS[problem_type]:
            known = ", ".join(METRICS[problem_type])
            raise StepError(f'unknown objective "{name}"', hint=f"for problem type {problem_type}: {known}")
    return names


def score(
    problem_type: ProblemType, objectives: Iterable[str], truth: Array, answers: Answers, positive_label: Any = None
) -> Scores:
    """The metrics of one target, in the order asked for; null where one is not defined, and a note that says why."""
    names = check_objectives(problem_type, objectives)
    if len(truth) == 0:
        nothing = [{"objective": name, "score": None} for name in names]
        return Scores(nothing, notes=["no rows were held out, so there are no metrics"])
    if problem_type == ProblemType.REGRESSION:
        found = _regression(np.asarray(truth, dtype=np.float64), _numbers(answers.values))
        return Scores([_metric(name, found[name]) for name in names])
    if problem_type == ProblemType.BINARY:
        return _binary(names, truth, answers, positive_label)
    found = _multi(truth, _hard(answers.values))
    return Scores([_metric(name, found[name]) for name in names])


def _metric(name: str, value: float | None) -> Metric:
    return {"objective": name, "score": float(value) if value is not None and math.isfinite(value) else None}


def _numbers(values: Array) -> Array:
    if values.ndim != 1:
        raise StepError(f"the model gives {values.shape[1]} numbers per row where one is expected")
    try:
        return values.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise StepError(f"the model's answers are no numbers: {error}") from error


def _regression(truth: Array, answer: Array) -> dict[str, float]:
    errors = answer - truth
    mse = float(np.mean(errors**2))
    spread = float(np.sum((truth - truth.mean()) ** 2))
    r2 = 1.0 - float(np.sum(errors**2)) / spread if spread > 0 else math.nan
    return {"mse": mse, "rmse": math.sqrt(mse), "mae": float(np.mean(np.abs(errors))), "r2": r2}


def _hard(values: Array) -> Array:
    """One class per row: of a table of probabilities the number of the largest."""
    return np.argmax(values, axis=1) if values.ndim == 2 else values


def _multi(truth: Array, answer: Array) -> dict[str, float]:
    from sklearn.metrics import precision_recall_fscore_support

    codes, _ = pd.factorize(np.concatenate([truth.astype(object), answer.astype(object)]))
    true, guess = codes[: len(truth)], codes[len(truth) :]
    precision, recall, f1, _ = precision_recall_fscore_support(true, guess, average="macro", zero_division=0)
    return {"precision": precision, "recall": recall, "f1": f1, "accuracy": float(np.mean(true == guess))}


def _binary(names: list[str], truth: Array, answers: Answers, positive_label: Any) -> Scores:
    guesses = answers.values[:, -1] if answers.values.ndim == 2 else answers.values
    labels = answers.classes or sorted_labels(truth)
    soft = _is_probability(guesses, labels)
    if answers.classes is None and not soft:
        labels = sorted_labels(np.concatenate([truth.astype(object), guesses.astype(object)]))
    positive = positive_of(labels, positive_label)
    true = np.asarray(truth == positive)
    # A bare probability is that of the second label, whichever of the two is asked for as positive.
    flipped = soft and positive == labels[0] and len(labels) > 1
    probability = _probability(guesses, flipped) if soft else None
    guess = np.asarray(guesses == positive) if probability is None else probability >= THRESHOLD
    ranking = probability if probability is not None else _ranking(answers, positive)
    found, notes = _counted(true, guess)
    if "auc" in names:
        found["auc"] = _auc(true, ranking, notes)
    if "log_loss" in names:
        found["log_loss"] = _log_loss(true, ranking, notes)
    return Scores([_metric(name, found[name]) for name in names], positive, notes)


def _probability(guesses: Array, flipped: bool) -> Array:
    numbers = guesses.astype(np.float64)
    return 1.0 - numbers if flipped else numbers


def sorted_labels(values: Array) -> list[Any]:
    """Distinct labels in order; of mixed types by their text."""
    labels = [v for v in pd.unique(values) if not pd.isna(v)]
    labels = [v.item() if isinstance(v, np.generic) else v for v in labels]
    try:
        return sorted(labels)
    except TypeError:
        return sorted(labels, key=str)


def positive_of(labels: list[Any], asked: Any) -> Any:
    """The label asked for (JSON's "1" is the integer's too), else the second; true or 1 when there is only one."""
    if asked is not None:
        for label in labels:
            if label == asked:
                return label
        for label in labels:
            if str(label).lower() == str(asked).lower():
                return label
        shown = ", ".join(map(repr, labels[:20])) + (" …" if len(labels) > 20 else "")
        raise StepError(f"positive_label {asked!r} is no label of the target", hint=f"its labels are {shown}")
    if len(labels) > 1:
        return labels[1]
    if labels and isinstance(labels[0], bool):
        return True
    return 1 if labels and labels[0] in (0, 1) else labels[0] if labels else True


def _is_probability(values: Array, labels: list[Any]) -> bool:
    """Numbers between 0 and 1 that are not the labels themselves."""
    if values.dtype.kind != "f":
        return False
    whole = bool(np.isin(values, [v for v in labels if isinstance(v, (int, float))] or [np.nan]).all())
    return not whole and bool(np.all((values >= 0) & (values <= 1)))


def _ranking(answers: Answers, positive: Any) -> Array | None:
    """How strongly each row leans to the positive class, when the model says so."""
    scores, classes = answers.scores, answers.classes
    if scores is None or classes is None or positive not in classes:
        return None
    if scores.ndim == 1:  # a decision function: towards the second class
        return scores if len(classes) == 2 and positive == classes[1] else -scores
    return np.asarray(scores[:, classes.index(positive)]) if scores.shape[1] == len(classes) else None


def _counted(true: Array, guess: Array) -> tuple[dict[str, float | None], list[str]]:
    hits = float(np.sum(true & guess))
    named, there = float(np.sum(guess)), float(np.sum(true))
    precision = hits / named if named else 0.0
    recall = hits / there if there else 0.0
    f1 = 2 * hits / (named + there) if named + there else 0.0
    found: dict[str, float | None] = {"precision": precision, "recall": recall, "f1": f1}
    found["accuracy"] = float(np.mean(true == guess))
    return found, [] if there else ["no row of the positive class was evaluated"]


def _auc(true: Array, ranking: Array | None, notes: list[str]) -> float | None:
    """The area under the ROC curve, by ranks (Mann-Whitney)."""
    if ranking is None:
        notes.append("auc is null: the model gives no probability")
        return None
    positives = int(true.sum())
    negatives = len(true) - positives
    if not positives or not negatives:
        notes.append("auc is null: only one class was evaluated")
        return None
    ranks = pd.Series(ranking).rank().to_numpy()
    return float((ranks[true].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def _log_loss(true: Array, ranking: Array | None, notes: list[str]) -> float | None:
    if ranking is None or not np.all((ranking >= 0) & (ranking <= 1)):
        notes.append("log_loss is null: the model gives no probability")
        return None
    tiny = np.finfo(np.float64).eps
    chance = np.clip(ranking.astype(np.float64), tiny, 1 - tiny)
    return float(-np.mean(np.log(np.where(true, chance, 1 - chance))))
