"""The README's tour, statement by statement, as an ordinary role against a database with a real worker."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.acceptance.conftest import Serve
from tests.fixtures.database import MakeRole, Role

README = Path(__file__).resolve().parents[2] / "README.md"

Rows = list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Answer:
    """One statement of the tour and what came back."""

    statement: str
    rows: Rows


def statements(text: str, language: str = "sql") -> list[str]:
    """The statements of a document's blocks in that language, in order; each ends with a semicolon at a line's end."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [part.strip() for block in blocks for part in re.split(r";\s*$", block, flags=re.MULTILINE) if part.strip()]


class Tour:
    """Every statement has been run, in order, each as psql would: by itself."""

    def __init__(self, role: Role) -> None:
        self.connection = role.connect()
        self.answers: list[Answer] = []
        for statement in statements(README.read_text(encoding="utf-8")):
            if statement.startswith("DROP TABLE"):
                self.left = self._what_is_left()
            cursor = self.connection.execute(statement.encode())
            self.answers.append(Answer(statement, cursor.fetchall() if cursor.description else []))

    def _what_is_left(self) -> tuple[int, int, int, int]:
        """Before the tables go: rows to predict, rows predicted, rows that are not the same, right predictions."""
        row = self.connection.execute("""
            WITH given AS (SELECT * FROM rides WHERE id > 4000),
                 carried AS (SELECT id, zone, hour, km, late FROM rides_predicted)
            SELECT (SELECT count(*) FROM given), (SELECT count(*) FROM rides_predicted),
                   (SELECT count(*) FROM ((TABLE given EXCEPT ALL TABLE carried)
                                          UNION ALL (TABLE carried EXCEPT ALL TABLE given)) AS d),
                   (SELECT count(*) FROM rides_predicted WHERE late = prediction)""").fetchone()
        assert row is not None
        given, answered, different, right = map(int, row)
        return given, answered, different, right

    def of(self, *words: str) -> list[Rows]:
        """The answers to all statements that hold these words."""
        return [a.rows for a in self.answers if all(word in a.statement for word in words)]


@pytest.fixture
def tour(serve: Serve, role: MakeRole, db: psycopg.Connection[Any]) -> Tour:
    """An ordinary role with a schema of its own, as ``demo`` is; a worker; the tour."""
    ann = role("ann")
    db.execute(sql.SQL("CREATE SCHEMA {0} AUTHORIZATION {0}").format(ann.identifier))
    serve()
    return Tour(ann)


def test_the_tour(tour: Tour) -> None:
    _check_waits(tour)
    _check_model(tour)
    _check_evaluation(tour)
    _check_predictions(tour)
    _check_versions(tour)
    _check_changes_of_mind(tour)


def _check_waits(tour: Tour) -> None:
    for rows in tour.of("wait_job"):
        assert {status for _, status in rows} <= {"SUCCEEDED"}
    jobs = tour.connection.execute("SELECT type, status, error FROM kwdbml.show_jobs() ORDER BY created").fetchall()
    assert [job[:2] for job in jobs] == [
        ("TRAIN", "SUCCEEDED"), ("EVALUATE", "SUCCEEDED"), ("BATCH_PREDICT", "SUCCEEDED"), ("TRAIN", "SUCCEEDED"),
        ("TRAIN", "CANCELED"),
    ], jobs  # fmt: skip
    ((watched,),) = (rows for rows in tour.of("kwdbml.jobs ORDER BY"))
    assert watched[0] == "TRAIN"


def _check_model(tour: Tour) -> None:
    (metrics,) = tour.of("show_models()")
    assert {(name, active) for name, active, _, _ in metrics} == {("late", 1)}
    scores = {objective: score for _, _, objective, score in metrics}
    assert 0.5 < scores["auc"] <= 1
    assert all(0 <= scores[name] <= 1 for name in ("precision", "recall", "f1", "accuracy"))


def _check_evaluation(tour: Tour) -> None:
    (((status, result, error),),) = tour.of("{EVALUATE}")
    assert (status, error) == ("SUCCEEDED", None)
    assert [m["objective"] for m in result] == ["auc", "f1"]
    assert 0.5 < result[0]["score"] <= 1


def _check_predictions(tour: Tour) -> None:
    asked, answered, different, right = tour.left
    assert (answered, different) == (asked, 0)
    (table,) = tour.of("really_late")
    assert {(type(really), type(predicted)) for really, predicted, _ in table} == {(bool, bool)}
    assert right > asked / 2


def _check_versions(tour: Tour) -> None:
    (versions,) = tour.of("kwdbml.show_model('late')")
    assert [(version, active) for version, active, _ in versions] == [(1, 1), (2, 1)]
    assert all(metrics for _, _, metrics in versions)


def _check_changes_of_mind(tour: Tour) -> None:
    assert tour.connection.execute("SELECT name FROM kwdbml.show_models()").fetchall() == []
    (((removed,),),) = tour.of("remove_training_pipeline")
    assert removed.endswith(".late_rides")
    assert tour.connection.execute("SELECT * FROM kwdbml.show_training_pipelines()").fetchall() == []


def test_the_superusers_part_of_the_installation(db: psycopg.Connection[Any]) -> None:
    """Run where the extension is not there yet, and rolled back: roles are the cluster's."""
    with db.transaction(force_rollback=True):
        db.execute("DROP EXTENSION kwdbml CASCADE")
        for statement in statements(README.read_text(encoding="utf-8"), "pgsql"):
            db.execute(statement.encode())
        member_of = db.execute(
            "SELECT array_agg(g.rolname::text) FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid"
            " WHERE m.member = 'ml_worker'::regrole"
        ).fetchone()
        assert member_of == (["kwdbml_worker"],)
        assert db.execute("SELECT extversion FROM pg_extension WHERE extname = 'kwdbml'").fetchone() is not None
