"""A process that has imported everything heavy before its job is known: used once, by one job."""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

from kwdbml.steps.control import Control

_HEAVY = (
    "ast",
    "joblib",
    "numpy",
    "packaging.requirements",
    "packaging.utils",
    "pandas",
    "pyarrow",
    "pyarrow.ipc",
    "sklearn.compose",
    "sklearn.ensemble",
    "sklearn.impute",
    "sklearn.linear_model",
    "sklearn.metrics",
    "sklearn.model_selection",
    "sklearn.pipeline",
    "sklearn.preprocessing",
    "threadpoolctl",
    "kwdbml.frameworks.builtin",
    "kwdbml.steps.run",
)

#: What libraries read when they are loaded later.
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_MAX_THREADS",
    "LOKY_MAX_CPU_COUNT",
)


def wait(control: Control) -> Path | None:
    """Import, say that we are ready, and wait for the job; None when standard input ends before there is one."""
    for name in _HEAVY:
        importlib.import_module(name)
    _first_steps()
    gc.collect()
    gc.freeze()  # what is here stays: the job's own collections need not look at it
    control.ready()
    line = sys.stdin.readline()
    if not line.strip():
        return None
    go: dict[str, Any] = json.loads(line)
    os.environ.update({str(name): str(value) for name, value in (go.get("env") or {}).items()})
    tempfile.tempdir = None  # TMPDIR may have changed
    if go.get("threads"):
        use_threads(int(go["threads"]))
    return Path(go["workspace"])


def use_threads(threads: int) -> None:
    """For libraries that are loaded, and through the environment for those that will be."""
    for name in _THREAD_VARIABLES:
        os.environ[name] = str(threads)
    if "sklearn" in sys.modules or "numpy" in sys.modules:
        import threadpoolctl

        threadpoolctl.threadpool_limits(limits=threads)
    if "pyarrow" in sys.modules:
        import pyarrow

        pyarrow.set_cpu_count(threads)


def _first_steps() -> None:
    """Do once, with nothing, what every job does: first calls are slow, and this is when nobody waits."""
    import numpy as np
    import pyarrow as pa

    from kwdbml.frameworks import builtin
    from kwdbml.frameworks.algorithms import validate_hyperparameters
    from kwdbml.model import ProblemType
    from kwdbml.steps import data, holdout
    from kwdbml.steps.spec import Column

    texts = pa.chunked_array([["a", None], ["b", "a"]])
    table = pa.table({"c0": texts, "c1": pa.chunked_array([[1.0, None], [0.5, 2.0]])})
    columns = [Column("text", "STRING", "c0"), Column("number", "FLOAT", "c1")]
    frame = data.rows_of(table, columns).frame
    frame["label"] = np.array([True, False, True, False])
    split = holdout.by_hash(frame, frame["label"].to_numpy(), 0)
    holdout.last_fifth(frame)
    features, labels = split.train[["text", "number"]], split.train["label"].to_numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # four rows are few; that is no line of the job's log
        for algorithm, small in (("logistic_regression", {"max_iter": 5}), ("hist_gradient_boosting", {"max_iter": 1})):
            parameters = validate_hyperparameters(algorithm, "b", small)
            model = builtin.fit(algorithm, ProblemType.BINARY, features, labels, parameters, threads=1, seed=0)
            model.predict_proba(features)
