"""The steps *prepare* and *train*: labelled rows, a hold-out, and a model, built-in or the user's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from kwdbml.errors import InvalidParameter
from kwdbml.frameworks import framework
from kwdbml.frameworks.algorithms import POSITIVE_LABEL, validate_hyperparameters
from kwdbml.frameworks.base import Framework
from kwdbml.model import ProblemType
from kwdbml.steps import compare, evaluate, holdout, returned, save
from kwdbml.steps.bundle import Bundle, takes
from kwdbml.steps.control import Control
from kwdbml.steps.data import DataSet
from kwdbml.steps.failure import BadBundle, BadReturn, OneClass, StepError
from kwdbml.steps.outcome import Outcome
from kwdbml.steps.predictor import Predictor
from kwdbml.steps.spec import Job
from kwdbml.steps.transform import PREDICTION, TRAINING, PredictionTransformer, TrainingTransformer

SCRIPT = "pipeline/train.py"
MAX_CLASSES = 1_000  # of a built-in classifier: each is a tree per round, or a column per leaf


def built_in(job: Job, control: Control, outcome: Outcome) -> None:
    """A built-in algorithm, hold-out by hash."""
    if job.algorithm is None or len(job.targets) != 1:
        raise StepError("a training needs an uploaded pipeline, or a built-in algorithm and one target")
    parameters = validate_hyperparameters(job.algorithm, job.problem_type, job.hyperparameters)
    parameters.pop(POSITIVE_LABEL, None)
    frame = _labelled(job, outcome)
    target = job.target_names[0]
    if job.classifies:
        _check_class_count(job, frame[target])
    else:
        _check_constant(frame[target])
    stratify = frame[target].to_numpy() if job.classifies else None
    split = holdout.by_hash(frame, stratify, job.seed)
    outcome.hold_out = split.as_json() | compare.hold(job, split.test)
    features, labels = split.train[job.feature_names], split.train[target].to_numpy()
    del frame

    control.enter("train")
    from kwdbml.frameworks import builtin  # scikit-learn: a job of another framework does without it

    model = builtin.fit(
        job.algorithm, job.problem_type, features, labels, parameters, threads=job.threads, seed=job.seed,
        given=job.hyperparameters.keys(),
    )  # fmt: skip
    control.enter("evaluate")
    tool = framework(job.framework)
    held_out = split.test[job.feature_names], split.test[[target]]
    evaluate.built_in(job, Predictor(tool, model), *held_out, outcome)
    outcome.hold_out |= {"metrics": outcome.metrics, "positive_label": outcome.positive_label}
    control.enter("save")
    save.built_in(job, tool, model)


@dataclass(slots=True)
class Prepared:
    """What ``model_train`` gets, and the raw held-out rows for the metrics."""

    x_train: pd.DataFrame
    y_train: pd.DataFrame
    x_test: pd.DataFrame
    y_test: pd.DataFrame
    raw_test: pd.DataFrame


def uploaded(job: Job, pipeline: Bundle, transformer: Bundle | None, control: Control, outcome: Outcome) -> None:
    """The user's ``train.py``: split and transform, ``model_train``, save, evaluate."""
    tool = framework(job.framework)
    if not pipeline.has(SCRIPT):
        raise BadBundle(f"the pipeline bundle has no {SCRIPT}", hint="it is the one required file of a pipeline bundle")
    train = pipeline.required(SCRIPT, "model_train")
    data = _prepare(job, transformer, outcome)

    control.enter("train")
    named = {"hyperparameters": dict(job.hyperparameters)} if takes(train, "hyperparameters") else {}
    result = pipeline.call(train, data.x_train, data.y_train, data.x_test, data.y_test, **named)
    model, metrics = _model_and_metrics(result)
    if pipeline.function(SCRIPT, "model_save") is None and not tool.is_model(model):
        kind = type(model).__name__
        raise BadReturn(f"model_train gave a {kind}, which is no {tool.name} model", hint=_EXPECTED)
    if metrics is not None:
        outcome.metrics = returned.metrics(metrics, "model_train")

    control.enter("save")
    model_path = save.uploaded(job, tool, model, pipeline, script=SCRIPT, outcome=outcome)
    if transformer is not None:
        save.transformer(job, transformer)
    if metrics is None:
        control.enter("evaluate")
        _evaluate(
            job,
            tool,
            model,
            model_path=model_path,
            pipeline=pipeline,
            transformer=transformer,
            data=data,
            outcome=outcome,
        )


def _evaluate(
    job: Job,
    tool: Framework,
    model: Any,
    *,
    model_path: str,
    pipeline: Bundle,
    transformer: Bundle | None,
    data: Prepared,
    outcome: Outcome,
) -> None:
    """By the user's evaluate.py; else as ``evaluate_model`` would: raw rows through the prediction's transformer."""
    if pipeline.has(evaluate.SCRIPT):
        evaluate.by_user(job, pipeline, model_path, data.x_test, data.y_test, outcome=outcome)
        return
    if not tool.is_model(model):
        outcome.note("no metrics: model_train gave none, and there is no evaluate.py to measure this kind of model")
        return
    if transformer is not None and transformer.has(PREDICTION):
        around = PredictionTransformer(transformer, job.target_names)
        features, target = data.raw_test[job.feature_names], data.raw_test[job.target_names]
        evaluate.built_in(job, Predictor(tool, model, pipeline, around), features, target, outcome)
    else:
        evaluate.built_in(job, Predictor(tool, model, pipeline), data.x_test, data.y_test, outcome)


def _prepare(job: Job, transformer: Bundle | None, outcome: Outcome) -> Prepared:
    frame = _labelled(job, outcome)
    targets = job.target_names
    own = TrainingTransformer(transformer, targets) if transformer and transformer.has(TRAINING) else None
    split = own.split(frame) if own else None
    if split is None:
        split = holdout.last_fifth(frame)
        outcome.note(
            f"no split() in the data preparation: the last {len(split.test)} of {len(frame)} rows, "
            "in the query's order, are held out"
        )
    outcome.hold_out = split.as_json() | compare.hold(job, split.test)
    # User code may change its frame in place; the raw test rows are still needed.
    raw = split.test.copy() if own else split.test
    train = own.training(split.train) if own else split.train
    test = own.test(split.test) if own else split.test
    if len(train) == 0:
        raise StepError("no rows are left to train on after split and transform_training_data")
    return Prepared(train.drop(columns=targets), train[targets], test.drop(columns=targets), test[targets], raw)


def _labelled(job: Job, outcome: Outcome) -> pd.DataFrame:
    """All rows that have a target; OneClass when a classifier would have nothing to tell apart."""
    rows = DataSet(job).labelled()
    outcome.count(rows)
    if rows.dropped:
        outcome.note(f"{rows.dropped} of {rows.read} rows are left out: they have no target")
    if rows.infinite:
        outcome.note(f"{rows.infinite} rows have an infinite feature, which counts as missing")
    if job.classifies:
        for name in job.target_names:
            values = rows.frame[name]
            if bool((values == values.iloc[0]).all()):
                only = values.iloc[0]
                raise OneClass(
                    f'the target "{name}" has only one class, {only}, in all {len(values)} rows',
                    hint="a classifier needs rows of at least two",
                )
    return rows.frame


def _check_constant(target: pd.Series[Any]) -> None:
    if bool((target == target.iloc[0]).all()):
        raise StepError(
            f'the target "{target.name}" is {target.iloc[0]} in all {len(target)} rows of train_data',
            hint="there is nothing to learn: give rows in which it differs",
        )


def _check_class_count(job: Job, target: pd.Series[Any]) -> None:
    count = target.nunique()
    if job.problem_type == ProblemType.BINARY and count > 2:
        some = ", ".join(map(str, sorted(target.unique()[:20].tolist(), key=str)))
        raise StepError(
            f'the target "{target.name}" has {count} classes ({some}), a binary problem has two',
            hint="make the pipeline for Multi_Classification",
        )
    if count > MAX_CLASSES:
        raise InvalidParameter(
            f'the target "{target.name}" has {count} classes, more than {MAX_CLASSES}',
            hint="make the pipeline for a Regression, or leave out rare classes",
        )


def _model_and_metrics(result: Any) -> tuple[Any, Any]:
    model, metrics = result, None
    if isinstance(result, (tuple, list)):
        if len(result) != 2:
            raise BadReturn(f"model_train gave a {type(result).__name__} of {len(result)}", hint=_EXPECTED)
        model, metrics = result
    if model is None:
        raise BadReturn("model_train gave no model (None)", hint=_EXPECTED)
    return model, metrics


_EXPECTED = "it gives (model, metrics), or the model alone"
