"""Pipelines as a user would upload them: a good one, and how a test trains with its own."""

from __future__ import annotations

import textwrap
from typing import Any

import pandas as pd

from tests.unit.steps.jobs import Jobs, Result

GOOD = """
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

def model_train(x_train, y_train, x_test, y_test):
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(x_train, y_train.iloc[:, 0])
    return model, [{"objective": "acc", "score": model.score(x_test, y_test.iloc[:, 0])}]
"""


def source(code: str) -> str:
    return textwrap.dedent(code)


def train(
    jobs: Jobs, frame: pd.DataFrame, code: str, target: str = "benign", problem: str = "b", **spec: Any
) -> Result:
    files = {"pipeline/train.py": source(code), **spec.pop("files", {})}
    zips = {"pipeline": files, **spec.pop("zips", {})}
    return jobs.run("TRAIN", frame, target, problem, zips=zips, **spec)
