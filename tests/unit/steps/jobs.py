"""A job directory as the worker and the engine would make it, and the step run on it as the engine would run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from kwdbml.steps.control import Control
from kwdbml.steps.run import run
from tests.fixtures.bundles import zipped

SILENT = Control(-1)


def text_column(values: Any) -> pa.Array:
    return pa.array([None if value is None or value != value else str(value) for value in values], pa.string())


def arrow_table(frame: pd.DataFrame) -> tuple[pa.Table, dict[str, str]]:
    """Columns c0, c1 … and the declared type of each of the frame's columns."""
    arrays, types = [], {}
    for name, column in frame.items():
        kind = column.dtype.kind if isinstance(column.dtype, np.dtype) else "O"
        if kind == "O" and all(isinstance(v, (bool, type(None))) for v in column) and len(column):
            arrays.append(pa.array(list(column), pa.bool_()))
            types[str(name)] = "BOOL"
        elif kind == "O":
            arrays.append(text_column(column))
            types[str(name)] = "STRING"
        elif kind == "b":
            arrays.append(pa.array(column.to_numpy()))
            types[str(name)] = "BOOL"
        else:
            values = column.to_numpy()
            arrays.append(pa.array(values, mask=np.isnan(values) if kind == "f" else None))
            types[str(name)] = "FLOAT" if kind == "f" else "INT"
    return pa.table(arrays, names=[f"c{i}" for i in range(len(arrays))]), types


@dataclass
class Result:
    code: int
    out: Path
    stdout: str = ""
    stderr: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def json(self) -> dict[str, Any]:
        assert self.code == 0, (
            (self.out / "error.json").read_text() if (self.out / "error.json").exists() else self.stderr
        )
        content: dict[str, Any] = json.loads((self.out / "result.json").read_text())
        return content

    @property
    def error(self) -> dict[str, Any]:
        assert self.code == 1, self.stderr
        assert not (self.out / "result.json").exists()
        content: dict[str, Any] = json.loads((self.out / "error.json").read_text())
        return content

    @property
    def metrics(self) -> dict[str, Any]:
        return {metric["objective"]: metric["score"] for metric in self.json["metrics"]}

    @property
    def predictions(self) -> pa.Table:
        assert self.code == 0, self.error
        with pa.OSFile(str(self.out / "predictions.arrow")) as source:
            return pa.ipc.open_file(source).read_all()


@dataclass
class Jobs:
    """Makes workspaces below ``root``; models and transformers of one job are given to the next."""

    root: Path
    count: int = 0

    def workspace(
        self,
        kind: str,
        frame: pd.DataFrame | pa.Table,
        target: str | list[str],
        problem_type: str,
        *,
        types: dict[str, str] | None = None,
        batch: int = 1000,
        zips: Mapping[str, bytes | dict[str, str | bytes] | Path] | None = None,
        **spec: Any,
    ) -> Path:
        self.count += 1
        workspace = self.root / f"job{self.count}"
        inputs = workspace / "in"
        inputs.mkdir(parents=True)
        (workspace / "out").mkdir()
        targets = [target] if isinstance(target, str) else target
        table, found = arrow_table(frame) if isinstance(frame, pd.DataFrame) else (frame, {})
        declared = {**found, **(types or {})}
        names = list(frame.columns) if isinstance(frame, pd.DataFrame) else list(declared)
        columns = {name: f"c{i}" for i, name in enumerate(names)}
        with pa.OSFile(str(inputs / "data.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            for piece in table.to_batches(max_chunksize=batch):
                writer.write_batch(piece)
        for name, content in (zips or {}).items():
            data = zipped(content) if isinstance(content, dict) else content
            (inputs / f"{name}.zip").write_bytes(data.read_bytes() if isinstance(data, Path) else data)
        features = [
            {"name": n, "type": "INT" if declared[n] == "BOOL" else declared[n], "column": c, "source": "x"}
            for n, c in columns.items()
            if n not in targets
        ]
        labels = [{"name": n, "type": declared.get(n, "FLOAT"), "column": columns.get(n)} for n in targets]
        job = {
            "version": 1,
            "job_id": "00000000-0000-0000-0000-000000000000",
            "attempt": 1,
            "type": kind,
            "problem_type": problem_type,
            "framework": "sklearn",
            "threads": 1,
            "seed": 0,
            "algorithm": None,
            "hyperparameters": {},
            "objectives": None,
            "positive_label": None,
            "features": features,
            "target": labels,
            "files": {name: name in (zips or {}) for name in ("pipeline", "transformer", "model")},
            **spec,
        }
        (inputs / "job.json").write_text(json.dumps(job))
        return workspace

    def run(
        self, kind: str, frame: pd.DataFrame | pa.Table, target: str | list[str], problem: str, **rest: Any
    ) -> Result:
        """In this process, which has everything imported: what most tests want."""
        workspace = self.workspace(kind, frame, target, problem, **rest)
        return Result(run(workspace, SILENT), workspace / "out")


def environment() -> dict[str, str]:
    """As empty as the engine's."""
    root = str(Path(__file__).parents[3])
    return {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}


def run_process(workspace: Path, *, warm: bool = False, env: dict[str, str] | None = None) -> Result:
    """As the engine runs it: a process of its own, with the control pipe as descriptor 3."""
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "kwdbml.steps", "--warm" if warm else str(workspace)]
    # subprocess cannot choose the number of a descriptor: a first program does, and becomes the step.
    first = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.execv(sys.argv[2], sys.argv[2:])"
    tmp = workspace / "out" / "tmp"
    tmp.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", first, str(writer), *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=(writer,),
        env={**environment(), "HOME": str(tmp), "TMPDIR": str(tmp)},
        cwd=tmp,
    )
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as control:
        line = None
        if warm:
            assert json.loads(control.readline()) == {"event": "ready"}
            line = json.dumps({"workspace": str(workspace), "threads": 1, "env": env or {}}).encode() + b"\n"
        stdout, stderr = process.communicate(line, timeout=120)
        events = [json.loads(event) for event in control]
    return Result(process.returncode, workspace / "out", stdout.decode(), stderr.decode(), events)
