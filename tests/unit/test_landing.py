"""What is made of a step's outputs before anything goes to the database."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwdbml.engines.base import RunState, RunStatus, Workspace
from kwdbml.errors import InvalidParameter
from kwdbml.worker import landing


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "out").mkdir()
    return Workspace(tmp_path)


def _write(workspace: Workspace, content: Any, name: str = "result.json") -> None:
    (workspace.outputs / name).write_text(json.dumps(content))


_text = st.text(st.characters())
_leaves = st.none() | st.floats() | _text | st.integers()


@given(st.recursive(_leaves, lambda inner: st.lists(inner) | st.dictionaries(_text, inner)))
def test_whatever_is_cleaned_is_json_of_postgresql(value: Any) -> None:
    text = json.dumps(landing.clean(value), allow_nan=False, ensure_ascii=False)
    assert "\0" not in text
    assert "\\u0000" not in text
    assert text.encode("utf-8").decode() == text


@pytest.mark.parametrize(("kind", "score"), [("b", 0.7), ("m", 0.5), ("r", 0.5)])
def test_the_main_score_is_the_problem_types_or_the_first(workspace: Workspace, kind: str, score: float) -> None:
    _write(workspace, {"metrics": [{"objective": "own", "score": 0.5}, {"objective": "auc", "score": 0.7}]})
    assert landing.outcome_of(workspace, kind)["main_score"] == score


def test_a_result_without_metrics(workspace: Workspace) -> None:
    _write(workspace, {})
    outcome = landing.outcome_of(workspace, "r")
    assert (outcome["metrics"], outcome["main_score"], outcome["rows_read"]) == ([], None, 0)


def test_a_missing_result_says_so(workspace: Workspace) -> None:
    with pytest.raises(InvalidParameter, match="without a result"):
        landing.outcome_of(workspace, "r")


@pytest.mark.parametrize("rows", [-1, 1 << 63, "many", [1]])
def test_a_count_that_is_none(workspace: Workspace, rows: Any) -> None:
    _write(workspace, {"rows_read": rows})
    with pytest.raises(InvalidParameter):
        landing.outcome_of(workspace, "r")


def test_what_the_engine_saw_outweighs_what_the_step_wrote(workspace: Workspace) -> None:
    _write(workspace, {"type": "MyError", "message": "mine"}, "error.json")
    killed = RunStatus(RunState.FAILED, 137, "OOMKilled", "too much memory")
    assert landing.error_of(workspace, killed)["type"] == "OOMKilled"
    left = RunStatus(RunState.FAILED, 1, "Error", "exit code 1")
    assert landing.error_of(workspace, left)["type"] == "MyError"
