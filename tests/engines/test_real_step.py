"""The engine with the step that ships: a built-in algorithm trained in the sandbox, warm and once cold."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from kwdbml.engines.base import Run, RunState, Workspace
from kwdbml.engines.local import LocalEngine
from kwdbml.engines.outputs import has_output
from tests.engines.conftest import MakeLocal, finish, lines


def stage(workspace: Workspace) -> None:
    """A regression over two columns, as the worker stages it."""
    values = np.random.default_rng(0).normal(size=(400, 2))
    table = pa.table({"c0": values[:, 0], "c1": values[:, 1], "c2": values.sum(axis=1)})
    with pa.OSFile(str(workspace.inputs / "data.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=100)
    features = [{"name": name, "type": "FLOAT", "column": name, "source": "float8"} for name in ("c0", "c1")]
    job: dict[str, Any] = {
        "version": 1,
        "job_id": "00000000-0000-0000-0000-000000000001",
        "attempt": 1,
        "type": "TRAIN",
        "problem_type": "r",
        "framework": "sklearn",
        "threads": 1,
        "seed": 0,
        "algorithm": "linear_regression",
        "hyperparameters": {},
        "objectives": None,
        "positive_label": None,
        "features": features,
        "target": [{"name": "c2", "type": "FLOAT", "column": "c2"}],
        "files": {"pipeline": False, "transformer": False, "model": False},
    }
    (workspace.inputs / "job.json").write_text(json.dumps(job))


@pytest.fixture(params=["sandbox", "plain"])
async def real(request: pytest.FixtureRequest, make_local: MakeLocal) -> LocalEngine:
    return await make_local(command=None, extra_paths=(), unsafe_no_sandbox=request.param == "plain")


async def test_a_training(real: LocalEngine) -> None:
    await real.warmed()
    run = Run("kwdbml-real-1", trusted=True)
    workspace = await real.open(run)
    stage(workspace)
    handle = await real.launch(run, workspace)
    status = await finish(real, handle)
    log = [line.line for line in await lines(real, handle)]
    error = workspace.outputs / "error.json"
    assert status.state is RunState.SUCCEEDED, (status, log, error.read_text() if error.exists() else "")
    result = json.loads((workspace.outputs / "result.json").read_text())
    assert result["rows_read"] == 400
    assert has_output(workspace.outputs, "model.zip")
    assert status.step is not None


@pytest.mark.parametrize(("cores", "sandboxes"), [(1, 1), (2, 2)])
async def test_while_a_run_waits_for_warmth_a_free_core_makes_the_next_sandbox(
    make_local: MakeLocal, scratch: Path, cores: int, sandboxes: int
) -> None:
    engine = await make_local(command=[sys.executable, "-c", "import signal; signal.pause()"], concurrency=1, warm=1)
    engine._cores = list(range(cores))
    (pool,) = engine._pools.values()
    await asyncio.gather(*pool._tasks)
    await engine.open(Run("kwdbml-test-1"))
    await asyncio.gather(*pool._tasks)
    assert len(list((scratch / "ws").iterdir())) == sandboxes
