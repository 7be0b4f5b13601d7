"""The words of the job system as types: standard library only, imported everywhere, also inside the server.

The story of a job's states is in ``docs/job-states.md``.
"""

from __future__ import annotations

from enum import StrEnum


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


#: What ``action_if_exists`` may be.
ACTIONS = ("replace", "append", "error")


def objective_groups(objectives: str) -> list[list[str]]:
    """The argument ``objectives`` of evaluate_model: names separated by commas, groups (one per target) by ``|``."""
    return [[name.strip() for name in group.split(",")] for group in objectives.split("|")]
