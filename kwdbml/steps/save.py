"""The step *save*: the model bundle, and the transformer's with what training wrote into it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from kwdbml.frameworks.base import Framework
from kwdbml.steps import archive
from kwdbml.steps.bundle import Bundle
from kwdbml.steps.failure import BadReturn
from kwdbml.steps.outcome import Outcome
from kwdbml.steps.spec import Job

#: What a model bundle takes along from the pipeline: a pickled model may need the code it was made with.
_TAKEN_ALONG = ("modules.zip", "requirements.txt", "pipeline")


def model_root(job: Job) -> Path:
    """Where the new model bundle is put together; its ``model/`` is the ``model_path`` of user functions."""
    root = job.scratch / "model"
    (root / "model").mkdir(parents=True, exist_ok=True)
    return root


def built_in(job: Job, framework: Framework, model: Any) -> None:
    root = model_root(job)
    framework.save(model, root / "model")
    archive.pack(job.outputs / "model.zip", root)


def uploaded(job: Job, framework: Framework, model: Any, pipeline: Bundle, *, script: str, outcome: Outcome) -> str:
    """By the user's ``model_save``, else the framework's way; gives the ``model_path`` to evaluate."""
    root = model_root(job)
    directory = root / "model"
    function = pipeline.function(script, "model_save")
    if function is not None:
        pipeline.call(function, model, str(directory))
        if next(archive.plain_files(directory), None) is None:
            raise BadReturn("model_save wrote nothing into model_path", hint="it is a directory; write files into it")
        if framework.find(directory) is None:
            outcome.note(
                f"model_save wrote none of {framework.files}: evaluate.py and batch_predict.py have to read it"
            )
    else:
        pipeline.call(framework.save, model, directory)
    for name in _TAKEN_ALONG:
        _copy(pipeline.root / name, root / name)
    archive.pack(job.outputs / "model.zip", root)
    return str(directory)


def transformer(job: Job, bundle: Bundle) -> None:
    archive.pack(job.outputs / "transformer.zip", bundle.root)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    elif source.is_file():
        shutil.copyfile(source, target)
