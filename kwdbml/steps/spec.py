"""``in/job.json``, read once and checked: the contract between worker and step as types."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kwdbml.model import FeatureType, JobType, ProblemType
from kwdbml.steps.failure import StepError

VERSION = 1


@dataclass(frozen=True, slots=True)
class Column:
    """A declared feature or target; ``column`` is its column of data.arrow, None when the data has none."""

    name: str
    type: str  # STRING, INT, FLOAT; a target may be BOOL
    column: str | None


@dataclass(frozen=True, slots=True)
class Job:
    workspace: Path
    type: JobType
    problem_type: ProblemType
    framework: str
    threads: int
    seed: int
    algorithm: str | None
    hyperparameters: Mapping[str, Any]
    objectives: list[list[str]] | None  # one group per target
    positive_label: Any
    features: list[Column]
    targets: list[Column]
    files: Mapping[str, bool]
    compare: Mapping[str, Any] | None = None  # with what settings.promote compares the new version; empty: with nothing

    @property
    def inputs(self) -> Path:
        return self.workspace / "in"

    @property
    def outputs(self) -> Path:
        return self.workspace / "out"

    @property
    def scratch(self) -> Path:
        return self.outputs / "tmp"

    @property
    def classifies(self) -> bool:
        return self.problem_type != ProblemType.REGRESSION

    @property
    def feature_names(self) -> list[str]:
        return [feature.name for feature in self.features]

    @property
    def target_names(self) -> list[str]:
        return [target.name for target in self.targets]


def read_job(workspace: Path) -> Job:
    """The job of a workspace; StepError when job.json is missing or not of our version."""
    path = workspace / "in" / "job.json"
    try:
        spec = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StepError(f"job.json cannot be read: {error}") from error
    if spec.get("version") != VERSION:
        raise StepError(f"job.json is of version {spec.get('version')}, this step reads version {VERSION}")
    try:
        return _job(workspace, spec)
    except (KeyError, ValueError, TypeError) as error:
        raise StepError(f"job.json is not as it should be: {error!r}") from error


def _job(workspace: Path, spec: dict[str, Any]) -> Job:
    hyperparameters = dict(spec.get("hyperparameters") or {})
    positive = spec.get("positive_label")
    return Job(
        workspace=workspace,
        type=JobType(spec["type"]),
        problem_type=ProblemType(spec["problem_type"]),
        framework=spec["framework"],
        threads=max(1, int(spec.get("threads") or 1)),
        seed=int(spec.get("seed") or 0),
        algorithm=spec.get("algorithm"),
        hyperparameters=hyperparameters,
        objectives=spec.get("objectives"),
        positive_label=hyperparameters.get("positive_label") if positive is None else positive,
        features=[_column(item, {*FeatureType}) for item in spec["features"]],
        targets=[_column(item, {*FeatureType, "BOOL"}) for item in spec["target"]],
        files=spec.get("files") or {},
        compare=spec.get("compare"),
    )


def _column(item: dict[str, Any], types: set[Any]) -> Column:
    if item["type"] not in types:
        raise ValueError(f"column {item['name']} is of type {item['type']}")
    return Column(name=item["name"], type=str(item["type"]), column=item.get("column"))
