"""The way of a job: read the spec, unpack the bundles, do what its type says, write the result or the error."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kwdbml.frameworks import framework
from kwdbml.model import JobType
from kwdbml.steps import compare, evaluate, predict, train
from kwdbml.steps.bundle import BUNDLES, Bundle
from kwdbml.steps.control import Control
from kwdbml.steps.data import DataSet
from kwdbml.steps.failure import BadBundle, error_report
from kwdbml.steps.outcome import Outcome, write_json
from kwdbml.steps.predictor import Predictor
from kwdbml.steps.spec import Job, read_job
from kwdbml.steps.transform import PREDICTION, TRAINING, PredictionTransformer, TrainingTransformer


def run(workspace: Path, control: Control) -> int:
    """0 with ``result.json`` written, 1 with ``error.json``. What user code raises, SystemExit included, ends here."""
    out = workspace / "out"
    (out / "tmp").mkdir(parents=True, exist_ok=True)
    try:
        job = read_job(workspace)
        outcome = Outcome()
        control.enter("prepare")
        with _packages(job.inputs / "packages"):
            _STEPS[job.type](job, control, outcome)
        write_json(out / "result.json", outcome.as_json())
        return 0
    except BaseException as error:  # noqa: BLE001 -- whatever user code raises is the job's error
        report = error_report(error, control.step, _user_roots(out / "tmp"))
        write_json(out / "error.json", report)
        _print_error(report)
        return 1


@contextlib.contextmanager
def _packages(directory: Path) -> Iterator[None]:
    """What the worker has installed for the bundles can be imported, after everything that is the runtime's own."""
    if not directory.is_dir():
        yield
        return
    sys.path.append(str(directory))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if str(directory) in sys.path:
            sys.path.remove(str(directory))


def _print_error(report: dict[str, Any]) -> None:
    """For the log, in which people look first."""
    lines = [f"  {line}" for line in report["traceback"]]
    with contextlib.suppress(OSError, ValueError):  # user code may have closed it
        sys.stderr.write("\n".join([*lines, f"{report['type']}: {report['message']}", ""]))


def _user_roots(scratch: Path) -> list[Path]:
    return [scratch / f"{name}{suffix}" for name in BUNDLES for suffix in ("", ".modules")]


#: Whose scripts see what lies beside them. A new model is put together in "model".
_FOLDERS = {"pipeline": "pipeline", "transformer": "prediction", "model": "pipeline"}


def _bundle(job: Job, name: str) -> Bundle | None:
    """The job's bundle of that name, unpacked; None when it has none."""
    if not job.files.get(name):
        return None
    return Bundle.unpack(job.inputs / f"{name}.zip", job.scratch / name, BUNDLES[name], _FOLDERS[name])


def _train(job: Job, control: Control, outcome: Outcome) -> None:
    pipeline = _bundle(job, "pipeline")
    if pipeline is None:
        train.built_in(job, control, outcome)
    else:
        train.uploaded(job, pipeline, _bundle(job, "transformer"), control, outcome)
    compare.versions(job, control, outcome)


def _model_bundle(job: Job) -> Bundle:
    bundle = _bundle(job, "model")
    if bundle is None:
        raise BadBundle("the job has no model bundle")
    if not (bundle.root / "model").is_dir():
        raise BadBundle("the model bundle has no directory model/")
    return bundle


def _evaluate(job: Job, control: Control, outcome: Outcome) -> None:
    model, pipeline, transformer = _model_bundle(job), _bundle(job, "pipeline"), _bundle(job, "transformer")
    rows = DataSet(job).labelled()
    outcome.count(rows)
    control.enter("evaluate")
    features, target = rows.frame[job.feature_names], rows.frame[job.target_names]
    if pipeline is None or not pipeline.has(evaluate.SCRIPT):
        around = _around(job, transformer)
        predictor = Predictor.load(framework(job.framework), model, around, job.threads)
        evaluate.built_in(job, predictor, features, target, outcome)
        return
    if transformer is not None and transformer.has(TRAINING):  # what evaluate.py got when the model was trained
        frame = TrainingTransformer(transformer, job.target_names).test(rows.frame)
        features, target = frame.drop(columns=job.target_names), frame[job.target_names]
    elif around := _around(job, transformer):
        features = around.frame_before(features)
    with model.active():  # the script unpickles what needs the model's own modules
        evaluate.by_user(job, pipeline, str(model.root / "model"), features, target, outcome=outcome)


def _predict(job: Job, control: Control, outcome: Outcome) -> None:
    model, pipeline, transformer = _model_bundle(job), _bundle(job, "pipeline"), _bundle(job, "transformer")
    control.enter("predict")
    if pipeline is not None and pipeline.has(predict.SCRIPT):
        predict.by_user(job, pipeline, model, _around(job, transformer), outcome)
    else:
        predictor = Predictor.load(framework(job.framework), model, _around(job, transformer), job.threads)
        predict.built_in(job, predictor, control, outcome)


def _around(job: Job, transformer: Bundle | None) -> PredictionTransformer | None:
    if transformer is None or not transformer.has(PREDICTION):
        return None
    return PredictionTransformer(transformer, job.target_names)


_STEPS = {JobType.TRAIN: _train, JobType.EVALUATE: _evaluate, JobType.BATCH_PREDICT: _predict}
