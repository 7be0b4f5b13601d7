"""What becomes of the argument ``objectives`` on its way to the step."""

from __future__ import annotations

from typing import Any

import pytest

from kwdbml.model import METRICS, ProblemType, lower_is_better, reported_objectives
from kwdbml.worker.inputs import objectives


@pytest.mark.parametrize(
    ("settings", "groups"),
    [
        ({"objectives": "f1"}, [["f1"]]),
        ({"objectives": " f1, AUC "}, [["f1", "AUC"]]),
        ({"objectives": "mse,mae | My Score"}, [["mse", "mae"], ["My Score"]]),
        ({}, None),
        ({"objectives": None}, None),
        ({"objectives": [["f1"]]}, None),
        ({"objectives": 1}, None),
    ],
)
def test_groups_of_an_evaluation(settings: dict[str, Any], groups: list[list[str]] | None) -> None:
    """A hand-written request may have anything there: no text means all metrics."""
    assert objectives({"type": "EVALUATE", "settings": settings}) == groups
    assert objectives({"type": "TRAIN", "settings": settings}) is None


def test_errors_and_losses_are_better_when_they_are_smaller() -> None:
    lower = {name for names in METRICS.values() for name in names if lower_is_better(name)}
    assert lower == {"mse", "rmse", "mae", "log_loss"}
    assert lower_is_better("a.b.mse")
    assert not lower_is_better("mse.r2")


def test_the_names_under_which_metrics_are_reported() -> None:
    assert reported_objectives(ProblemType.MULTI, ["late"]) == ["precision", "recall", "f1", "accuracy"]
    assert reported_objectives(ProblemType.REGRESSION, ["a", "b.c"])[3:5] == ["a.r2", "b.c.mse"]
