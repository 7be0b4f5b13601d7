"""The step *evaluate*: metrics of a model on labelled rows, by the user's ``evaluate.py`` or the built-in evaluator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from kwdbml.model import METRICS, JobType, ProblemType
from kwdbml.steps import metrics, returned
from kwdbml.steps.bundle import Bundle
from kwdbml.steps.failure import BadReturn
from kwdbml.steps.metrics import Answers
from kwdbml.steps.outcome import Outcome
from kwdbml.steps.predictor import Predictor
from kwdbml.steps.spec import Job

SCRIPT = "pipeline/evaluate.py"


def by_user(
    job: Job, pipeline: Bundle, model_path: str, features: pd.DataFrame, target: pd.DataFrame, *, outcome: Outcome
) -> None:
    """``model_evaluate(model_path, metrics, x_test, y_test)``; ``metrics`` are names, in lists if there are groups."""
    function = pipeline.required(SCRIPT, "model_evaluate")
    groups = job.objectives or [list(METRICS[job.problem_type])]
    asked: list[Any] = list(groups[0]) if len(groups) == 1 else [list(group) for group in groups]
    result = pipeline.call(function, model_path, asked, features, target)
    outcome.metrics = returned.metrics(result, "model_evaluate")


def built_in(job: Job, predictor: Predictor, frame: pd.DataFrame, target: pd.DataFrame, outcome: Outcome) -> None:
    """Predict the rows of ``frame`` and compare with ``target`` (one column per target)."""
    answers = predictor.answers(frame, with_scores=True) if len(frame) else None
    positives = []
    for number, name in enumerate(job.target_names):
        objectives = [name.lower() for name in _group(job, number)]
        values = _one_target(answers, number, len(job.targets)) if answers else Answers(target[name].to_numpy())
        if answers and job.targets[number].type == "STRING":
            values = _of_texts(job, name, values)
        found = metrics.score(job.problem_type, objectives, target[name].to_numpy(), values, job.positive_label)
        prefix = "" if len(job.targets) == 1 else f"{name}."
        outcome.metrics += [{**metric, "objective": prefix + metric["objective"]} for metric in found.metrics]
        for note in found.notes:
            outcome.note(prefix + note)
        positives.append(found.positive_label)
    if any(positive is not None for positive in positives):
        outcome.positive_label = positives[0] if len(positives) == 1 else positives


def _group(job: Job, number: int) -> list[str]:
    """One group of objectives serves every target."""
    groups = job.objectives or []
    return groups[number] if number < len(groups) else groups[0] if len(groups) == 1 else []


def _one_target(answers: Answers, number: int, targets: int) -> Answers:
    """Of several targets, one column of the answers."""
    if targets == 1:
        return answers
    if answers.values.ndim != 2 or answers.values.shape[1] != targets:
        width = 1 if answers.values.ndim == 1 else answers.values.shape[1]
        raise BadReturn(f"the model gives {width} values per row for {targets} targets")
    return Answers(answers.values[:, number])


def _of_texts(job: Job, name: str, answers: Answers) -> Answers:
    """A model that knows numbers only (0, 1) means the first and the second label; more labels have no order."""
    if not job.classifies or answers.values.dtype.kind not in "fiub":
        return answers
    if job.problem_type == ProblemType.BINARY:
        scores = answers.scores
        chance = scores is not None and scores.ndim == 2 and scores.shape[1] == 2
        return Answers(scores[:, 1] if scores is not None and chance else answers.values.astype(np.float64))
    if job.type == JobType.TRAIN:  # the model is made; what measures it may still come
        return answers
    raise BadReturn(
        f'the model answers with numbers, and the target "{name}" is text',
        hint="give the classes their names in the postprocess of a data-preparation bundle",
    )
