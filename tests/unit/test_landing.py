"""What is made of a step's outputs before anything goes to the database."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwdbml.engines.base import RunState, RunStatus, Workspace
from kwdbml.errors import EngineError, InvalidParameter
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


DEEP = "[" * 900 + "]" * 900


def _scored(score: str) -> str:
    return '{"metrics": [{"objective": "f1", "score": ' + score + "}]}"


ODD_RESULTS = [
    _scored("9" * 5000), '{"rows_read": 1e999}', '{"rows_read": -1e999}',
    '{"rows_read": ' + "9" * 4000 + "}", _scored("9" * 4000),
    '{"positive_label": ' + DEEP + "}", '{"metrics": [{"objective": ' + DEEP + ', "score": [1]}]}', "[" * 50_000,
    '{"libraries": [[]]}', '{"metrics": {"a": 1}}', '{"metrics": [null]}', "null", "5", '"text"', "",
]  # fmt: skip


@pytest.mark.parametrize("text", ODD_RESULTS, ids=range(len(ODD_RESULTS)))
def test_an_odd_result_is_told_as_such(workspace: Workspace, text: str) -> None:
    (workspace.outputs / "result.json").write_text(text)
    with pytest.raises(InvalidParameter, match="step's result"):
        landing.outcome_of(workspace, "r")


@pytest.mark.parametrize("score", ["1e999", "-1e999", "NaN", "null"])
def test_a_score_that_is_no_number(workspace: Workspace, score: str) -> None:
    (workspace.outputs / "result.json").write_text(_scored(score))
    assert landing.outcome_of(workspace, "r")["main_score"] is None


def test_a_label_is_not_multiplied_without_bound(workspace: Workspace) -> None:
    metrics = [{"objective": str(i), "score": 1} for i in range(1000)]
    for label, kept in (("yes", True), (["yes", 1, True], True), (["x" * 5000] * 100, False)):
        _write(workspace, {"metrics": metrics, "positive_label": label})
        result = landing.outcome_of(workspace, "b")["result"]
        assert result[999].get("positive_label") == (label if kept else None)


def test_an_odd_result_takes_little_memory(workspace: Workspace) -> None:
    for content in ("[" + "[]," * 700_000 + "[]]", "[" + "{}," * 700_000 + "{}]", "[" + "[]," * 9_000_000 + "[]]"):
        (workspace.outputs / "result.json").write_text(content)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises((InvalidParameter, EngineError)):
            landing.outcome_of(workspace, "r")
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 80 << 10


ODD_ERRORS = [
    "[" * 50_000, '{"message": ' + "9" * 5000 + "}", '{"traceback": ' + DEEP + ', "message": 1e999}',
    '{"traceback": 5}', '{"traceback": {"a": 1}}', "null", '{"pad": "' + "x" * (3 << 20) + '"}',
    '{"message": ' + DEEP + "}",
]  # fmt: skip


@pytest.mark.parametrize("text", ODD_ERRORS, ids=range(len(ODD_ERRORS)))
def test_an_odd_error_is_still_one(workspace: Workspace, text: str) -> None:
    (workspace.outputs / "error.json").write_text(text)
    error = landing.error_of(workspace, RunStatus(RunState.FAILED, 1, "Error", "exit code 1"))
    assert set(error) == {"type", "message", "step", "traceback"}
    assert len(json.dumps(error)) < 3_000_000
    json.dumps(error, allow_nan=False).encode()


def test_what_was_held_out(workspace: Workspace) -> None:
    metrics = [{"objective": "f1", "score": 0.5}, {"objective": "auc", "score": float("nan")}]
    held = {"method": "last", "rows_train": 4, "rows_test": 1, "hash": "0" * 64, "metrics": metrics, "problem": None}
    _write(workspace, {"hold_out": held | {"positive_label": "yes", "active": {"problem": "a\0b"}}})
    assert landing.outcome_of(workspace, "b")["held_out"] == {
        "hash": "0" * 64,
        "rows": 1,
        "metrics": [
            {"objective": "f1", "score": 0.5, "positive_label": "yes"},
            {"objective": "auc", "score": None, "positive_label": "yes"},
        ],
        "problem": None,
        "active": {"metrics": None, "problem": "a\ufffdb"},
    }


@pytest.mark.parametrize("digest", [None, "", "0" * 63, "0" * 65, "G" * 64, 5, ["0" * 64]])
def test_a_hash_that_is_none(workspace: Workspace, digest: Any) -> None:
    _write(workspace, {"hold_out": {"hash": digest}})
    assert landing.outcome_of(workspace, "b")["held_out"]["hash"] is None


@pytest.mark.parametrize(
    "held",
    [5, [1], {"rows_test": -1}, {"metrics": [5]}, {"metrics": 5}, {"metrics": [{"objective": 1}]}, {"active": 5}],
)
def test_held_out_of_another_shape(workspace: Workspace, held: Any) -> None:
    _write(workspace, {"hold_out": held})
    with pytest.raises(InvalidParameter, match=r"result\.json"):
        landing.outcome_of(workspace, "b")
