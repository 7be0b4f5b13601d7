"""What becomes of the argument ``objectives`` on its way to the step."""

from __future__ import annotations

from typing import Any

import pytest

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
