"""The step *compare*, for ``settings.promote``: the new version and the active one, measured on the same held-out rows.

Each is measured as ``evaluate_model`` would do it, on what is stored of it: a workspace of its own, with the held-out
rows as its data and the version's bundles, and the step EVALUATE in a process of its own, with the packages that its
bundles ask for. So neither's code meets the other's, and a version that cannot be measured is a reason in the decision
and no failure of the job. Which of them is promoted is decided in the database, where the model can be locked.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from kwdbml.model import JobType
from kwdbml.steps import holdout
from kwdbml.steps.apart import apart
from kwdbml.steps.bundle import ACTIVE, ACTIVE_PACKAGES
from kwdbml.steps.control import Control
from kwdbml.steps.failure import message_of
from kwdbml.steps.outcome import Outcome
from kwdbml.steps.spec import Column, Job

_TYPES = {"STRING": pa.string(), "INT": pa.int64(), "FLOAT": pa.float64(), "BOOL": pa.bool_()}


def hold(job: Job, rows: pd.DataFrame) -> dict[str, Any]:
    """The hash of the held-out rows, and a copy when versions are compared, before code of a user can change them."""
    columns = [*job.features, *job.targets]
    try:
        kept = rows[[column.name for column in columns]]
        found = {"hash": holdout.content_hash(kept)}
        if job.compare is not None:
            _write(_rows(job), kept, columns)
    except Exception as error:  # noqa: BLE001 -- a split() of the user's has made them, of whatever
        return {"hash": None, "problem": f"the held-out rows are not of the declared columns: {message_of(error)}"}
    return found


def versions(job: Job, control: Control, outcome: Outcome) -> None:
    """Measure both; ``outcome.hold_out`` gets ``metrics``, ``problem``, and the same of the ``active`` version."""
    held = outcome.hold_out
    if job.compare is None or held is None or held["hash"] is None:
        return
    if not held["rows_test"]:
        held["problem"] = "no rows were held out"
        return
    control.enter("compare")
    new = {kind: job.outputs / f"{kind}.zip" for kind in ACTIVE}
    found = _measured(job, "new", new, job.inputs / "packages", job.framework, job.positive_label)
    positive = found.get("positive_label")
    held.update({"metrics": None, "problem": None} | found)
    if not job.compare:
        return
    if job.compare.get("problem"):
        held["active"] = {"problem": job.compare["problem"]}
        return
    active = {kind: job.inputs / f"{name}.zip" for kind, name in ACTIVE.items()}
    # the same label is the positive one for both
    asked = positive if job.positive_label is None and not isinstance(positive, list) else job.positive_label
    framework = str(job.compare["framework"])
    with apart(list(new.values())):  # it may be another person's
        held["active"] = _measured(job, "active", active, job.inputs / ACTIVE_PACKAGES, framework, asked)


def _rows(job: Job) -> Path:
    return job.scratch / "compare" / "data.arrow"


def _write(path: Path, frame: pd.DataFrame, columns: list[Column]) -> None:
    """The rows as the worker stages them: the columns are c0, c1 … in their order."""
    arrays = [_array(frame[column.name], column.type) for column in columns]
    table = pa.table(arrays, names=[f"c{number}" for number in range(len(arrays))])
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _array(values: pd.Series[Any], kind: str) -> pa.Array:
    array = pa.array(values.to_numpy(), from_pandas=True)
    if kind == "INT" and pa.types.is_floating(array.type):  # integers with NULLs
        return array.cast(pa.float64())
    return array if array.type == _TYPES[kind] else array.cast(_TYPES[kind])


def _measured(
    job: Job, name: str, bundles: dict[str, Path], packages: Path, framework: str, positive: Any
) -> dict[str, Any]:
    """``metrics`` (and ``positive_label``) of a version, or the ``problem``."""
    root = _rows(job).parent / name
    try:
        _fill(job, root, bundles, packages, framework, positive)
        code = _evaluate(root)
        if code == 0:
            result = json.loads((root / "out" / "result.json").read_bytes())
            return {key: result[key] for key in ("metrics", "positive_label") if key in result}
        return {"problem": _problem(root / "out" / "error.json", code)}
    except (OSError, ValueError) as error:
        return {"problem": message_of(error)}
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _fill(job: Job, root: Path, bundles: dict[str, Path], packages: Path, framework: str, positive: Any) -> None:
    """A workspace as the worker would make it for an evaluation of the version on the held-out rows."""
    inputs, there = root / "in", {kind: path for kind, path in bundles.items() if path.is_file()}
    inputs.mkdir(parents=True)
    (root / "out" / "tmp").mkdir(parents=True)
    (inputs / "data.arrow").symlink_to(_rows(job))
    for kind, path in there.items():
        (inputs / f"{kind}.zip").symlink_to(path)
    if packages.is_dir():
        (inputs / "packages").symlink_to(packages)
    count = len(job.features)
    spec = json.loads((job.inputs / "job.json").read_bytes()) | {
        "type": JobType.EVALUATE, "framework": framework, "algorithm": None, "hyperparameters": {}, "objectives": None,
        "positive_label": positive, "files": dict.fromkeys(there, True), "compare": None,
        "threads": int(os.environ.get("OMP_NUM_THREADS") or job.threads),
        "features": [{"name": c.name, "type": c.type, "column": f"c{i}"} for i, c in enumerate(job.features)],
        "target": [{"name": c.name, "type": c.type, "column": f"c{count + i}"} for i, c in enumerate(job.targets)],
    }  # fmt: skip
    (inputs / "job.json").write_text(json.dumps(spec), encoding="utf-8")


def _evaluate(root: Path) -> int:
    """Its exit code. What it prints is the job's log."""
    place = str(root / "out" / "tmp")
    return subprocess.run(
        [sys.executable, "-P", "-m", "kwdbml.steps", str(root)],
        stdin=subprocess.DEVNULL, cwd=place, env={**os.environ, "HOME": place, "TMPDIR": place}, check=False,
    ).returncode  # fmt: skip


def _problem(report: Path, code: int) -> str:
    try:
        found = json.loads(report.read_bytes())
        return f"{found['type']}: {found['message']}"
    except (OSError, ValueError, KeyError, TypeError):
        return f"its code ended the process ({f'signal {-code}' if code < 0 else f'exit code {code}'})"
