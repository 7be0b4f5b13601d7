"""The worker's side of the database: every statement calls one function of the extension (``queries.sql``).

Small and frequent things go over a psycopg pool, here; bulk data goes over ADBC, in :mod:`kwdbml.dataset`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, cast
from uuid import UUID

import psycopg
import pyarrow as pa
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool

from kwdbml import copybinary
from kwdbml.dataset import DatabaseError
from kwdbml.errors import InvalidParameter
from kwdbml.queries import QUERIES, attentive

#: What a transaction may be retried for: serialization failure, deadlock, lock timeout.
RETRYABLE = ("40001", "40P01", "55P03")
#: Somebody else decided: the token is not held any more, or the job has ended.
FENCED = "55000"


def away(error: Exception) -> bool:
    """Whether the connection is what failed, or the server that it went to."""
    if not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError | DatabaseError):
        return False
    return error.sqlstate is None or error.sqlstate.startswith(("08", "57P"))


@dataclass(frozen=True, slots=True)
class Claim:
    """One attempt of one job that this worker holds by its token."""

    job_id: UUID
    attempt: int
    token: UUID
    run_name: str
    engine: str
    status: str
    takeover: bool
    phase: str
    handle: dict[str, Any] | None
    host: str = ""  # where it may have been launched

    @property
    def key(self) -> dict[str, UUID]:
        return {"job": self.job_id, "token": self.token}


@dataclass(frozen=True, slots=True)
class Artefact:
    kind: str
    artefact: UUID
    bytes: int
    sha256: str
    chunks: int


@dataclass
class Store:
    """The pool and the statements over it. ``dsn`` is the worker's own, powerless role's."""

    dsn: str
    max_size: int = 4
    _pool: AsyncConnectionPool = field(init=False)
    _long: asyncio.Semaphore = field(init=False)  # who may keep a connection for long: leases must find one, too

    def __post_init__(self) -> None:
        self._long = asyncio.Semaphore(max(1, self.max_size // 2))
        options = {
            "autocommit": True,
            "row_factory": dict_row,
            "application_name": "kwdbml worker",
            "keepalives_idle": 30,
        }
        self._pool = AsyncConnectionPool(
            attentive(self.dsn, impatient=True),
            kwargs=options,
            min_size=1,
            max_size=self.max_size,
            open=False,
            timeout=10,
        )

    async def open(self) -> None:
        await self._pool.open(wait=True, timeout=30)

    async def close(self) -> None:
        await self._pool.close()

    async def _rows(self, name: str, **parameters: Any) -> list[dict[str, Any]]:
        async with self._pool.connection() as connection:
            cursor = await connection.execute(QUERIES[name].encode(), parameters)
            return cast("list[dict[str, Any]]", await cursor.fetchall())

    async def _value(self, name: str, **parameters: Any) -> Any:
        return next(iter((await self._rows(name, **parameters))[0].values()))

    async def whoami(self) -> dict[str, Any]:
        return (await self._rows("whoami"))[0]

    async def claim(
        self, worker: str, engines: Sequence[str], lease: timedelta, host: str = "", queues: Sequence[str] | None = None
    ) -> Claim | None:
        asked = {"worker": worker, "engines": list(engines), "lease": lease, "host": host}
        rows = await self._rows("claim", **asked, queues=None if queues is None else list(queues))
        return Claim(**rows[0]) if rows else None

    async def heartbeat(self, tokens: Sequence[UUID], lease: timedelta) -> dict[UUID, str]:
        """Job status by token; a token that is missing is lost."""
        return {r["token"]: r["status"] for r in await self._rows("heartbeat", tokens=list(tokens), lease=lease)}

    async def update(
        self, claim: Claim, *, phase: str | None = None, step: str | None = None, progress: float | None = None,
        handle: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        await self._rows(
            "update",
            **claim.key,
            phase=phase,
            step=step,
            progress=progress,
            handle=None if handle is None else Jsonb(handle),
        )

    async def log(self, claim: Claim, lines: list[dict[str, Any]], cut: tuple[int, int] | None) -> None:
        cut_from, cut_to = cut or (None, None)
        await self._rows("log", **claim.key, lines=Jsonb(lines), cut_from=cut_from, cut_to=cut_to)

    async def spec(self, claim: Claim) -> dict[str, Any]:
        """What to run. InvalidParameter when the row holds JSON that Python does not read."""
        try:
            return cast("dict[str, Any]", await self._value("spec", **claim.key))
        except (ValueError, RecursionError) as error:  # a number of many digits, brackets in brackets in brackets …
            raise InvalidParameter(
                f"the job's settings cannot be read: {error}", hint="Give smaller numbers, and less nested ones."
            ) from None

    async def compared(self, claim: Claim) -> dict[str, Any] | None:
        """The version that a training with settings.promote is compared with; {} when there is none yet."""
        return cast("dict[str, Any] | None", await self._value("compared", **claim.key))

    async def artefacts(self, claim: Claim) -> list[Artefact]:
        return [Artefact(**row) for row in await self._rows("artefacts", **claim.key)]

    async def chunks(self, claim: Claim, artefact: Artefact) -> AsyncIterator[bytes]:
        """The bytes of an artefact, 8 MiB at a time."""
        async with self._long, self._pool.connection() as connection:
            for number in range(artefact.chunks):
                cursor = connection.cursor(binary=True)
                parameters = {**claim.key, "artefact": artefact.artefact, "number": number}
                await cursor.execute(QUERIES["chunk"].encode(), parameters)
                row = cast("dict[str, Any]", await cursor.fetchone())
                yield next(iter(row.values()))

    async def fail(self, claim: Claim, error: dict[str, Any], *, retry: bool) -> str:
        return str(await self._value("fail", **claim.key, error=Jsonb(error), retry=retry))

    async def end(self, claim: Claim) -> None:
        await self._rows("end", **claim.key)

    async def release(self, claim: Claim) -> None:
        await self._rows("release", **claim.key)

    async def cleanup(self, engines: Sequence[str], host: str, bound: Sequence[str]) -> list[dict[str, Any]]:
        """Runs to stop and delete; those of ``bound`` engines only when they were launched on this host."""
        return await self._rows("cleanup", engines=list(engines), host=host, bound=list(bound))

    async def terminate(self, pid: int) -> None:
        """End a backend of our own that does not end when it is asked."""
        await self._rows("terminate", pid=pid)

    async def cleaned(self, run_name: str) -> None:
        await self._rows("cleaned", run=run_name)

    async def sweep(self) -> None:
        await self._rows("sweep")

    @asynccontextmanager
    async def landing(self, claim: Claim) -> AsyncIterator[Landing]:
        """The final transaction of a job: committed when the block ends well."""
        async with self._long, self._pool.connection() as connection, connection.transaction():
            await connection.execute(QUERIES["lock_timeout"].encode())
            yield Landing(connection, claim)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """A connection of its own that LISTENs."""
        async with await psycopg.AsyncConnection.connect(
            attentive(self.dsn), autocommit=True, application_name="kwdbml listen"
        ) as connection:
            await connection.execute(QUERIES["listen"].encode())
            yield connection


@dataclass(frozen=True, slots=True)
class Landing:
    connection: psycopg.AsyncConnection[Any]
    claim: Claim

    async def put(self, artefact: UUID | None, kind: str, number: int, chunk: bytes) -> UUID:
        parameters = {**self.claim.key, "artefact": artefact, "kind": kind, "number": number, "chunk": chunk}
        cursor = await self.connection.execute(QUERIES["put"].encode(), parameters, binary=True)
        return cast("UUID", next(iter((await cursor.fetchone() or {}).values())))

    async def write_rows(self, batches: Callable[[list[dict[str, str]]], Iterator[pa.RecordBatch]]) -> None:
        """Open the job's result table and COPY ``batches(columns)`` into it."""
        cursor = await self.connection.execute(QUERIES["result_open"].encode(), self.claim.key)
        opened = cast("dict[str, Any]", await cursor.fetchone())
        names = sql.SQL(", ").join(sql.Identifier(c["name"]) for c in opened["columns"])
        table = sql.Identifier(opened["table_schema"], opened["table_name"])
        rows = batches(opened["columns"])
        async with cursor.copy(sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(table, names)) as copy:
            await copy.write(copybinary.HEADER)
            while (block := await asyncio.to_thread(_next_block, rows)) is not None:
                await copy.write(block)
            await copy.write(copybinary.TRAILER)

    async def land(self, outcome: dict[str, Any]) -> None:
        await self.connection.execute(QUERIES["land"].encode(), {**self.claim.key, "outcome": Jsonb(outcome)})


def _next_block(rows: Iterator[pa.RecordBatch]) -> memoryview | None:
    batch = next(rows, None)
    return None if batch is None else copybinary.encode(batch)
