"""The words of the job system as types: standard library only, imported everywhere, also inside the server.

The story of a job's states is in ``docs/job-states.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any


class JobType(StrEnum):
    TRAIN = "TRAIN"
    EVALUATE = "EVALUATE"
    BATCH_PREDICT = "BATCH_PREDICT"


#: The argument by which each kind of job is given its data.
DATA_ARGUMENTS = {
    JobType.TRAIN: "train_data",
    JobType.EVALUATE: "evaluate_data",
    JobType.BATCH_PREDICT: "batch_data",
}


class JobStatus(StrEnum):
    """What ``show_jobs`` says; a job that waits is RUNNING too."""

    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"


class Phase(StrEnum):
    """What ``kwdbml.jobs`` says beside the status."""

    QUEUED = "queued"
    STAGING = "staging"
    LAUNCHING = "launching"
    RUNNING = "running"
    COLLECTING = "collecting"
    FINALIZING = "finalizing"
    CANCELING = "canceling"


class ProblemType(StrEnum):
    REGRESSION = "r"
    BINARY = "b"
    MULTI = "m"


class FeatureType(StrEnum):
    STRING = "STRING"
    INT = "INT"
    FLOAT = "FLOAT"


#: Bytes of a column's name: PostgreSQL cuts a longer one, and nobody would find it again.
MOST_NAME = 63
_DECLARED = frozenset({*FeatureType, "BOOL"})


def are_columns(found: Any) -> bool:
    """Whether a declaration is a list of {name, type} that columns can have: its creator may have written it by hand,
    and a number would be a name for SQL and none for Python."""
    return isinstance(found, list) and all(
        isinstance(c, dict)
        and isinstance(c.get("name"), str)
        and 0 < len(c["name"].encode()) <= MOST_NAME
        and isinstance(c.get("type"), str)
        and c["type"] in _DECLARED
        for c in found
    )


#: Metrics of the built-in evaluator by problem type, in the order in which they are reported.
METRICS: dict[ProblemType, tuple[str, ...]] = {
    ProblemType.REGRESSION: ("mse", "rmse", "mae", "r2"),
    ProblemType.BINARY: ("precision", "recall", "f1", "auc", "accuracy", "log_loss"),
    ProblemType.MULTI: ("precision", "recall", "f1", "accuracy"),
}

#: The metric that stands for a version in one number (``main_score``).
MAIN_METRIC: dict[ProblemType, str] = {
    ProblemType.REGRESSION: "rmse",
    ProblemType.BINARY: "auc",
    ProblemType.MULTI: "f1",
}

#: Metrics of which the smaller score is the better one.
LOWER_IS_BETTER = frozenset({"mse", "rmse", "mae", "log_loss"})


#: What ``action_if_exists`` may be.
ACTIONS = ("replace", "append", "error")


def reported_objectives(problem_type: ProblemType, targets: Sequence[str]) -> list[str]:
    """The names under which the built-in evaluator reports its metrics: of several targets, each has its own."""
    prefixes = [""] if len(targets) == 1 else [f"{target}." for target in targets]
    return [prefix + metric for prefix in prefixes for metric in METRICS[problem_type]]


def lower_is_better(objective: str) -> bool:
    """Whether of two scores under a reported name the smaller one is better."""
    return objective.rpartition(".")[2] in LOWER_IS_BETTER


def objective_groups(objectives: str) -> list[list[str]]:
    """The argument ``objectives`` of evaluate_model: names separated by commas, groups (one per target) by ``|``."""
    return [[name.strip() for name in group.split(",")] for group in objectives.split("|")]
