"""What the tests of the SQL side share: asking, being refused, bundles, and a worker without an engine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pyarrow as pa
import pytest

from kwdbml.dataset import Connections, DatabaseError, Reader
from tests.fixtures.bundles import zipped
from tests.fixtures.database import Role

Connection = psycopg.Connection[Any]
Parameters = Sequence[Any] | Mapping[str, Any] | None

TRAIN_PY = "def model_train(x_train, y_train, x_test, y_test):\n    return None, []\n"
INPUT = '[{"name": "amount", "type": "float"}, {"name": "kind", "type": "string"}]'
OUTPUT = '[{"name": "late", "type": "int"}]'


def rows(connection: Connection, statement: str, parameters: Parameters = None) -> list[tuple[Any, ...]]:
    """All rows of a statement that need not be a literal."""
    return connection.execute(statement.encode(), parameters).fetchall()


def one(connection: Connection, statement: str, parameters: Parameters = None) -> Any:
    """The only value of the only row."""
    found = rows(connection, statement, parameters)
    assert len(found) == 1, found
    assert len(found[0]) == 1, found
    return found[0][0]


def run(connection: Connection, *statements: str) -> None:
    for statement in statements:
        connection.execute(statement.encode())


def columns(connection: Connection, source: str) -> list[tuple[str, str]]:
    """(name, type) of the columns of what stands in FROM."""
    described = connection.execute(f"SELECT * FROM {source} LIMIT 0".encode()).description or []
    types = connection.adapters.types
    return [(c.name, found.name if (found := types.get(c.type_code)) else str(c.type_code)) for c in described]


def grant_model(db: Connection, grantee: str, privilege: str) -> None:
    """A privilege on every model there is; the functions that grant are another issue's."""
    db.execute(
        "INSERT INTO kwdbml.model_privilege (model_id, grantee, privilege) SELECT id, %s, %s FROM kwdbml.model",
        [grantee, privilege],
    )


def grant_pipeline(db: Connection, grantee: str, privilege: str) -> None:
    db.execute(
        (
            "INSERT INTO kwdbml.pipeline_privilege (pipeline_id, grantee, privilege) SELECT id, %s, %s"
            " FROM kwdbml.pipeline"
        ),
        [grantee, privilege],
    )


@contextmanager
def refused(sqlstate: str, *words: str, hint: bool | str = True) -> Iterator[pytest.ExceptionInfo[psycopg.Error]]:
    """The block raises exactly this SQLSTATE, its message has all words, and (unless told) a hint says the cure."""
    with pytest.raises(psycopg.Error) as caught:
        yield caught
    diagnosis = caught.value.diag
    assert caught.value.sqlstate == sqlstate, caught.value
    message = diagnosis.message_primary or ""
    assert all(word in message for word in words), message
    assert "Traceback" not in str(caught.value)
    assert bool(diagnosis.message_hint) or not hint, message
    if isinstance(hint, str):
        assert hint in (diagnosis.message_hint or ""), diagnosis.message_hint


@contextmanager
def refused_staging(sqlstate: str, *words: str) -> Iterator[None]:
    """The same for what comes over ADBC."""
    with pytest.raises(DatabaseError) as caught:
        yield
    assert caught.value.sqlstate == sqlstate, caught.value
    assert all(word in caught.value.message for word in words), caught.value.message


def bundle(**files: str | bytes) -> bytes:
    """A ZIP; in names ``__`` stands for a slash and ``_py`` at the end for .py."""
    return zipped({name.replace("__", "/").removesuffix("_py") + ".py": text for name, text in files.items()})


PIPELINE_ZIP = bundle(pipeline__train_py=TRAIN_PY)


def import_pipeline(connection: Connection, name: str = "up", **changes: Any) -> str:
    """Import an uploaded pipeline over INPUT and OUTPUT, some arguments changed."""
    arguments: dict[str, Any] = {
        "name": name, "description": "mine", "problem_type": "B", "framework": "sklearn_1.3", "runtime": "python_3.8",
        "input": INPUT, "output": OUTPUT, "pipeline": PIPELINE_ZIP, "transformer": None, **changes,
    }  # fmt: skip
    return str(one(connection, (
        "SELECT kwdbml.import_training_pipeline(%(name)s, %(description)s, %(problem_type)s, %(framework)s,"
        " %(runtime)s, %(input)s, %(output)s, %(pipeline)s, %(transformer)s)"
    ), arguments))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Held:
    """A job that the worker of a test holds."""

    job: UUID
    token: UUID
    attempt: int
    run_name: str

    @property
    def key(self) -> tuple[UUID, UUID]:
        return (self.job, self.token)


class Worker:
    """Moves jobs as the worker's role does, step by step, without an engine."""

    def __init__(self, dsn: str, connection: Connection) -> None:
        self.dsn = dsn
        self.connection = connection

    def claim(self, job: object = None, engine: str = "local") -> Held:
        """Claim what is next; it must be ``job`` when one is named."""
        found = rows(self.connection, (
            "SELECT job_id, token, attempt, run_name FROM kwdbml.worker_claim('test', ARRAY[%s], '1 min')"
        ), [engine])  # fmt: skip
        assert len(found) == 1, found
        held = Held(*found[0])
        assert job is None or str(held.job) == str(job)
        return held

    def call(self, function: str, held: Held, *more: Any) -> Any:
        """``SELECT kwdbml.FUNCTION(job, token, …)``."""
        places = ", ".join(["%s"] * (2 + len(more)))
        return one(self.connection, f"SELECT kwdbml.{function}({places})", [*held.key, *more])

    def spec(self, held: Held) -> dict[str, Any]:
        answer: dict[str, Any] = self.call("worker_spec", held)
        return answer

    def stage(self, held: Held, target: Path) -> tuple[list[dict[str, Any]], pa.Table]:
        """(what was read, the rows) over ADBC, as the real worker reads."""
        with closing(Connections(self.dsn)) as connections:
            staged = Reader(connections).stage(str(held.job), str(held.token), target)
        with pa.memory_map(str(target)) as file:
            return staged.columns, pa.ipc.open_file(file).read_all()

    def land(self, held: Held, **outcome: Any) -> str:
        return str(self.call("worker_land", held, json.dumps({"metrics": [], "artefacts": [], **outcome})))

    def finish_training(self, job: object = None, **outcome: Any) -> Held:
        """Claim a TRAIN job and make it SUCCEEDED with a model of a few bytes."""
        held = self.claim(job)
        with self.connection.transaction():
            put = self.call("worker_put", held, None, "model", 0, b"model")
            artefacts = [{"id": str(put), "bytes": 5, "sha256": "x"}]
            result = [{"objective": "auc", "score": 0.9}]
            self.land(held, **{"metrics": result, "result": result, "artefacts": artefacts, **outcome})
        return held


@dataclass(frozen=True, slots=True)
class Person:
    """A role and its connection."""

    role: Role
    connection: Connection

    @property
    def name(self) -> str:
        return self.role.name
