"""One database with ordinary people in it, seen from outside, and ways to wait for what happens there without sleeping.

``Site.until`` looks at the database whenever it says that something has changed; what no notification tells (a backend
that waits for a lock) it sees a moment later. Every wait has a deadline.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, LiteralString
from uuid import uuid4

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from tests.fixtures.bundles import zipped
from tests.fixtures.database import Role

Query = LiteralString | bytes | sql.SQL | sql.Composed
#: Seconds. A machine that many share may be slow, what never happens is found out anyway; and longer than the half
#: minute after which a sweep deletes what a worker that lost its connection could not delete at once.
DEADLINE = 120.0
#: Somebody in this test's database waits for a lock, other than those who notify at the same time, which is one lock
#: of the whole server. Other tests may have databases there.
WAITING = (
    "SELECT count(*) > 0 FROM pg_stat_activity"
    " WHERE datname = current_database() AND wait_event_type = 'Lock' AND wait_event <> 'object'"
)
#: Locks that somebody in this test's database waits for, to be followed by AND.
WANTED_LOCKS = (
    "pg_locks WHERE pid IN (SELECT pid FROM pg_stat_activity WHERE datname = current_database()) AND NOT granted"
)
_TELLING = ("attempt", "job", "job_log", "cleanup")

#: A pipeline script that is not run: the fake engine's script plays its part.
TRAIN = "def model_train(x_train, y_train, x_test, y_test):\n    raise NotImplementedError\n"


@dataclass
class Site:
    """``db`` is the superuser's connection, ``as_ann`` ordinary ann's, who has made everything here. ``patience``: how
    long a wait may last."""

    db: psycopg.AsyncConnection[Any]
    ann: Role
    as_ann: psycopg.AsyncConnection[Any]
    heard: list[tuple[str, str]] = field(default_factory=list)  # (channel, payload), while waiting
    patience: float = DEADLINE

    async def prepare(self) -> None:
        """Have the job tables tell of every change, and give ann a small table and a pipeline."""
        await self.run(
            "CREATE FUNCTION public.tell() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM pg_catalog.pg_notify('changed', ''); RETURN NULL; END $$"
        )
        for table in _TELLING:
            await self.run(
                sql.SQL(
                    "CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE ON kwdbml.{} EXECUTE FUNCTION public.tell()"
                ).format(sql.Identifier(table))
            )
        await self.run("LISTEN changed; LISTEN kwdbml_job_finished")
        await self.as_ann.execute(
            "CREATE TABLE public.trips AS SELECT n AS id, n / 10.0::float8 AS x, n % 2 AS late"
            " FROM generate_series(1, 50) n"
        )
        await self.pipeline("p")

    # -- SQL -----------------------------------------------------------------------------------------------------

    async def run(self, query: Query, *parameters: Any) -> None:
        await self.db.execute(query, parameters or None)

    async def rows(self, query: Query, *parameters: Any) -> list[Any]:
        return await (await self.db.execute(query, parameters or None)).fetchall()

    async def row(self, query: Query, *parameters: Any) -> Any:
        found = await self.rows(query, *parameters)
        assert len(found) == 1, found
        return found[0]

    async def value(self, query: Query, *parameters: Any) -> Any:
        return (await self.row(query, *parameters))[0]

    async def until(self, query: Query, *parameters: Any, deadline: float | None = None) -> Any:
        """The first column of the first row, as soon as it is true."""
        try:
            async with asyncio.timeout(deadline or self.patience):
                while True:
                    found = await self.rows(query, *parameters)
                    if found and found[0][0]:
                        return found[0][0]
                    async for told in self.db.notifies(timeout=0.1, stop_after=1):
                        self.heard.append((told.channel, told.payload))
        except TimeoutError:
            raise AssertionError(f"never came true: {query!r}; jobs: {await self._state()}") from None

    async def _state(self) -> list[Any]:
        return await self.rows("SELECT id, type, status, phase, attempt, error FROM kwdbml.jobs")

    # -- jobs ----------------------------------------------------------------------------------------------------

    async def pipeline(
        self,
        name: str,
        *,
        train: str = TRAIN,
        features: Sequence[Mapping[str, str]] = ({"name": "x", "type": "FLOAT"},),
        target: Sequence[Mapping[str, str]] = ({"name": "late", "type": "INT"},),
        problem_type: str = "b",
    ) -> None:
        """A training pipeline of ann's with this ``train.py``."""
        await self.as_ann.execute(
            "SELECT kwdbml.import_training_pipeline(%s, '', %s, 'sklearn_1.3', 'python_3.10', %s, %s, %s, NULL)",
            [name, problem_type, Jsonb(list(features)), Jsonb(list(target)), zipped({"pipeline/train.py": train})],
        )

    async def model(
        self,
        name: str = "m",
        *,
        features: Sequence[Mapping[str, str]] = ({"name": "x", "type": "FLOAT"},),
        target: Sequence[Mapping[str, str]] = ({"name": "late", "type": "INT"},),
        problem_type: str = "b",
        content: bytes = b"a model",
    ) -> None:
        """A model of ann's with one active version, as a TRAIN job would have left it."""
        await self.run(
            """
            WITH m AS (INSERT INTO kwdbml.model (schema, name, creator, problem_type, features, target, next_version)
                       VALUES ('public', %s, %s, %s, %s, %s, 2) RETURNING id),
                 v AS (INSERT INTO kwdbml.model_version (model_id, version, active, creator, framework, runtime)
                       SELECT id, 1, true, %s, 'sklearn_1.3', 'python_3.10' FROM m RETURNING id),
                 a AS (INSERT INTO kwdbml.artefact (model_version_id, kind, bytes, sha256)
                       SELECT id, 'model', octet_length(%s), encode(sha256(%s), 'hex') FROM v RETURNING id)
            INSERT INTO kwdbml.artefact_chunk (artefact_id, seq, chunk) SELECT id, 0, %s FROM a
            """,
            name, self.ann.name, problem_type, Jsonb(list(features)), Jsonb(list(target)),
            self.ann.name, content, content, content,
        )  # fmt: skip

    async def submit(self, query: Query, *parameters: Any) -> str:
        """A job that ann asks for, committed."""
        row = await (await self.as_ann.execute(query, parameters)).fetchone()
        assert row is not None
        return str(row[0])

    async def train(
        self, data: str = "trips", *, model: str = "m", pipeline: str = "p", new_version: bool = False,
        deploy: bool = False, **settings: Any,
    ) -> str:  # fmt: skip
        return await self.submit(
            "SELECT kwdbml.train_model(%s, %s, %s, %s, %s, %s)",
            pipeline, model, data, new_version, deploy, Jsonb(settings),
        )  # fmt: skip

    async def predict(
        self, data: str = "trips", *, model: str = "m", table: str = "answers", action: str = "error", **settings: Any
    ) -> str:
        return await self.submit(
            "SELECT kwdbml.batch_predict(%s, NULL::bigint, %s, %s, %s, %s)", model, data, table, action, Jsonb(settings)
        )

    async def ended(self, job: str) -> tuple[str, dict[str, Any]]:
        """How a job ended: (status, error or result), once nothing of it is left to end or to clean up."""
        await self.until("SELECT status <> 'RUNNING' FROM kwdbml.job WHERE id = %s", job)
        await self.settled()
        status, error, result = await self.row("SELECT status::text, error, result FROM kwdbml.job WHERE id = %s", job)
        return str(status), error if status != "SUCCEEDED" else result

    async def succeeded(self, job: str) -> Any:
        """A job's result."""
        status, answer = await self.ended(job)
        assert status == "SUCCEEDED", answer
        return answer

    async def failed(self, job: str) -> dict[str, Any]:
        """A job's error."""
        status, answer = await self.ended(job)
        assert status == "FAILED", (status, answer)
        return answer

    async def settled(self) -> None:
        """No attempt is open and nothing must be cleaned up."""
        await self.until(
            "SELECT NOT EXISTS (SELECT FROM kwdbml.attempt WHERE ended IS NULL)"
            " AND NOT EXISTS (SELECT FROM kwdbml.cleanup)"
        )

    async def in_phase(self, job: str, phase: str) -> None:
        await self.until("SELECT phase = %s FROM kwdbml.jobs WHERE id = %s", phase, job)

    async def expire(self) -> None:
        """The leases of all attempts have run out."""
        await self.run("UPDATE kwdbml.attempt SET lease_until = '-infinity' WHERE ended IS NULL; NOTIFY kwdbml_wake")

    async def attempts(self, job: str) -> list[tuple[int, str | None]]:
        """(number, outcome) of a job's attempts."""
        return await self.rows("SELECT number, outcome FROM kwdbml.attempt WHERE job_id = %s ORDER BY number", job)

    async def versions(self, model: str = "m") -> list[tuple[int, bool]]:
        """(number, active) of a model's versions."""
        return await self.rows(
            "SELECT v.version, v.active FROM kwdbml.model_version v JOIN kwdbml.model m ON m.id = v.model_id"
            " WHERE m.name = %s ORDER BY 1",
            model,
        )

    async def lines(self, job: str) -> list[str]:
        """What a job's user code printed."""
        found = await self.rows("SELECT line FROM kwdbml.job_logs(%s) WHERE stream = 'stdout'", job)
        return [r[0] for r in found if not r[0].startswith("kwdbml: ")]

    async def one_landed(self, job: str) -> None:
        """A TRAIN job of a new model has landed once, in its first attempt."""
        assert await self.succeeded(job) is not None
        assert await self.attempts(job) == [(1, "SUCCEEDED")]
        assert await self.versions() == [(1, True)]


class Gate:
    """A lock on which a query of ann's waits: ``closed`` data cannot be staged until ``open``."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._key = uuid4().int >> 66
        self._holder: psycopg.AsyncConnection[Any] | None = None

    @property
    def data(self) -> str:
        """The trips, behind the gate."""
        return f"SELECT t.* FROM (SELECT pg_advisory_lock_shared({self._key}) OFFSET 0) AS gate, trips AS t"

    async def close(self) -> None:
        self._holder = await psycopg.AsyncConnection.connect(self._dsn, autocommit=True)
        await self._holder.execute("SELECT pg_advisory_lock(%s)", [self._key])

    async def open(self) -> None:
        if self._holder is not None:
            await self._holder.close()
            self._holder = None

    async def waited_for(self, site: Site) -> int:
        """The backend that waits there."""
        waits = f"SELECT pid FROM {WANTED_LOCKS} AND locktype = 'advisory' AND mode = 'ShareLock'"
        return int(await site.until(waits))


def metrics(score: float = 0.9) -> list[dict[str, Any]]:
    """What a binary classifier reports."""
    return [{"objective": "f1", "score": 0.5}, {"objective": "auc", "score": score}]


def result(**changes: Any) -> str:
    """A well-formed result.json."""
    whole = {"metrics": metrics(), "rows_read": 50, "rows_dropped": 1, "rows_infinite": 0, "libraries": {"numpy": "2"}}
    return json.dumps(whole | changes)
