"""examples/late_pipeline, zipped by examples/build.py, does what its README says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.unit.steps.jobs import Jobs

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture
def example(tmp_path: Path) -> Path:
    path = tmp_path / "late_pipeline.zip"
    subprocess.run(
        [sys.executable, str(EXAMPLES / "build.py"), "late_pipeline", str(path)], check=True, capture_output=True
    )
    return path


@pytest.mark.parametrize("kind", ["boolean", "integer"])
def test_the_main_job(jobs: Jobs, flights: pd.DataFrame, example: Path, kind: str) -> None:
    frame = flights.drop(columns=["air_time", "tailnum"])
    if kind == "integer":
        frame["late"] = frame["late"].astype(float)
    types = {"late": "INT"} if kind == "integer" else None
    hyperparameters = {"max_iter": 30}
    zips: dict[str, Any] = {"pipeline": example}
    trained = jobs.run("TRAIN", frame, "late", "b", zips=zips, hyperparameters=hyperparameters, types=types)
    assert trained.metrics["auc"] > 0.6
    zips["model"] = trained.out / "model.zip"
    objectives = [["auc", "caught_in_top_tenth"]]
    evaluated = jobs.run("EVALUATE", frame, "late", "b", zips=zips, objectives=objectives, types=types)
    assert set(evaluated.metrics) == {"auc", "caught_in_top_tenth"}
    strange = frame.drop(columns="late").iloc[:500].copy()
    strange.loc[0, "carrier"] = "??"
    with_script = jobs.run("BATCH_PREDICT", strange, "late", "b", zips=zips, types={"late": "BOOL"})
    without = {"model": zips["model"]}
    alone = jobs.run("BATCH_PREDICT", strange, "late", "b", zips=without, types={"late": "BOOL"})
    values = with_script.predictions["t0"].to_pylist()
    assert values == alone.predictions["t0"].to_pylist()
    assert set(values) <= ({True, False} if kind == "boolean" else {0, 1})
    assert len(values) == 500
    assert 0 <= np.mean(values) < 0.5
